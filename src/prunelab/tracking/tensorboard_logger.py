"""TensorBoard: learning curves, settings and final figures as event files in the folder of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prunelab.errors import UserError
from prunelab.records import Record
from prunelab.records.deployment import Stage
from prunelab.tracking.jobs import JobPlace, flattened
from prunelab.tracking.run_logger import RunLogger

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

FOLDER = "tensorboard"


class TensorboardLogger(RunLogger):
    """Writes event files for TensorBoard, besides curves.csv (logger=tensorboard).

    ``tensorboard --logdir outputs/<study>`` shows all runs of a study. A run has one folder of events for each kind of
    phase (learning, search, round, recovery, baseline) and one for its final figures (result), which is also in the tab
    HPARAMS.

    Raises:
        UserError: when a run starts without the package tensorboardX.
    """

    writes_curves = True

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise UserError(
                "logger=tensorboard needs tensorboardX: pip install 'prunelab[tensorboard]'"
            ) from error

    def start_job(self, place: JobPlace) -> TensorboardJob:
        return TensorboardJob(place)


class TensorboardJob:
    """A folder of events; see ``tracking.jobs.Job``."""

    def __init__(self, place: JobPlace) -> None:
        self._place = place
        self._writer: SummaryWriter | None = None

    def log(self, figures: Mapping[str, float], step: int) -> None:
        writer = self._opened(step)
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()  # so that TensorBoard shows it, and a killed process loses nothing

    def result(self, figures: Mapping[str, float], record: Record | None) -> None:
        writer = self._opened(None)
        if record is None:
            for name, value in figures.items():
                writer.add_scalar(f"result/{name}", value)
            return
        from tensorboardX.summary import hparams

        settings = {name: _plain(value) for name, value in flattened(self._place.settings)}
        for summary in hparams(settings, dict(figures)):
            writer.file_writer.add_summary(summary)
        for name, value in figures.items():
            writer.add_scalar(name, value)
        lines = [f"| {group} | {before} | {after} |" for group, (before, after) in record.plan.widths.items()]
        header = "| group | channels before | channels after |\n| :-- | --: | --: |\n"
        writer.add_text("widths", header + "\n".join(lines))

    def stages(self, stages: Sequence[Stage]) -> None:
        """Nothing is logged: W&B alone has tables of stages."""

    def close(self, finished: bool) -> None:
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int | None) -> SummaryWriter:
        """The writer; its first step removes the same and later steps, which an interrupted run left, from the view."""
        if self._writer is None:
            from tensorboardX import SummaryWriter

            name = f"{self._place.title} {self._place.job}".replace("/", "_")
            # Names of files have a resolution of a second: the suffix keeps a second file from replacing the first.
            suffix = f".{time.time_ns()}"
            folder = str(self._place.folder / FOLDER / name)
            self._writer = SummaryWriter(folder, purge_step=step, filename_suffix=suffix)
        return self._writer


def _plain(value: Any) -> str | float | bool:
    """A setting as a type that the tab HPARAMS can show."""
    return value if isinstance(value, str | int | float | bool) else str(value)
