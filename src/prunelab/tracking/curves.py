"""Learning curves: one row of figures per epoch of a training, in a CSV file and in the checkpoints."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from prunelab.records.atomic import Write, set_aside, write_atomically

METRICS = ("train/loss", "train/top1", "val/loss", "val/top1", "val/top5")
LEARNING = "learning/"
"""Prefix of the figures that a learning method logs."""

Row = dict[str, str]
"""A row of the file: the name of each column and its text."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRow:
    """The figures at the end of an epoch (counted from 1) of a phase ("recovery", "round 1", "baseline").

    ``learning_rate`` is that at the end of the epoch; ``metrics`` holds those of METRICS that were logged, and the
    figures that a learning method logged ("learning/...").
    """

    phase: str
    epoch: int
    learning_rate: float
    metrics: dict[str, float]

    def texts(self) -> Row:
        """The row in the form of the file: numbers with six significant digits."""
        return {
            "phase": self.phase,
            "epoch": str(self.epoch),
            "learning_rate": f"{self.learning_rate:.6g}",
            **{name: f"{value:.6g}" for name, value in self.metrics.items()},
        }


class Curves(Callback):
    """Passes the row of each epoch to ``write``, on rank zero only.

    The rows of the phase are also part of the checkpoints, which have a digest. When a training is resumed they are
    passed to ``restore``, so that a lost or damaged file is written again.
    """

    def __init__(
        self,
        phase: str,
        write: Callable[[EpochRow], None],
        restore: Callable[[str, list[Row]], None] = lambda phase, rows: None,
    ) -> None:
        self.phase = phase
        self.write = write
        self.restore = restore
        self._rows: list[Row] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and self._rows:
            self.restore(self.phase, self._rows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        logged = trainer.callback_metrics
        row = EpochRow(
            phase=self.phase,
            epoch=trainer.current_epoch + 1,
            learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
            metrics={
                name: float(logged[name]) for name in (*METRICS, *_of_learning(logged)) if name in logged
            },
        )
        self._rows.append(row.texts())
        if trainer.is_global_zero:
            self.write(row)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self._rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._rows = list(state_dict["rows"])


@dataclass(frozen=True)
class CurvesFile:
    """A CSV file with a row for each epoch. The phases follow one another in it."""

    path: Path
    put: Write = field(default=write_atomically)

    def write(self, row: EpochRow) -> None:
        """Add ``row``; rows of the same and of later epochs, which an interrupted run left, are removed."""
        earlier = [old for old in self._read() if old["phase"] != row.phase or int(old["epoch"]) < row.epoch]
        self._write([*earlier, row.texts()])

    def restore(self, phase: str, rows: list[Row]) -> None:
        """Make ``rows``, which a checkpoint holds, the rows of ``phase``; others are unchanged.

        A file whose rows of these epochs differ is damaged: it is set aside, with a warning.
        """
        found = self._read()
        last = len(rows)
        ours = [_filled(row) for row in found if row["phase"] == phase]
        if [row for row in ours if int(row["epoch"]) <= last] not in ([], [_filled(row) for row in rows]):
            self._set_aside("its figures differ from those in the checkpoint")
        if len(ours) != last or not self.path.is_file():
            before = [row["phase"] for row in found].index(phase) if ours else len(found)
            others = [row for row in found if row["phase"] != phase]
            self._write([*others[:before], *rows, *others[before:]])

    def phases(self) -> list[str]:
        """The phase of each row."""
        return [row["phase"] for row in self._read()]

    def _read(self) -> list[Row]:
        """The rows of the file. A damaged file is set aside, with a warning, and counts as empty."""
        if not self.path.is_file():
            return []
        try:
            with self.path.open(newline="", encoding="utf-8") as lines:
                rows = list(csv.DictReader(lines, strict=True))
            if not all(_is_sound(row) for row in rows):
                raise ValueError("not a table of epochs")
        except (ValueError, csv.Error) as error:
            self._set_aside(str(error))
            return []
        return rows

    def _set_aside(self, fault: str) -> None:
        log.warning(
            "The learning curves %s are damaged (%s). The file was renamed to %s, and is written again from the "
            "checkpoints; the rows of phases without a checkpoint are missing.",
            self.path,
            fault,
            set_aside(self.path).name,
        )

    def _write(self, rows: list[Row]) -> None:
        learning = _of_learning(name for row in rows for name in row)
        columns = ("phase", "epoch", "learning_rate", *METRICS, *learning)
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self.put(self.path, text.getvalue())


def _is_sound(row: dict[Any, Any]) -> bool:
    """Whether a row has a text in every column and a valid number of the epoch."""
    whole = None not in row and None not in row.values()
    return whole and {"phase", "epoch"} <= row.keys() and row["epoch"].isdecimal()


def _filled(row: Row) -> Row:
    """The cells of a row that are not empty."""
    return {name: text for name, text in row.items() if text}


def _of_learning(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a learning method has logged, each once, in order of appearance."""
    return [name for name in dict.fromkeys(names) if name.startswith(LEARNING)]
