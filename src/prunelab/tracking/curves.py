"""One row of figures for each epoch of a training, and the CSV file that keeps them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer

from prunelab.records import write_atomically

METRICS = ("train/loss", "train/top1", "val/loss", "val/top1", "val/top5")
LEARNING = "learning/"
"""What a method logs while it learns begins like this."""


@dataclass(frozen=True)
class EpochRow:
    """What is known at the end of an epoch (counted from 1) of a phase ("recovery", "round 1", "baseline").

    ``learning_rate`` is that of the epoch's end; ``metrics`` holds those of METRICS that were logged, and what a
    method that learns has logged about itself ("learning/...").
    """

    phase: str
    epoch: int
    learning_rate: float
    metrics: dict[str, float]


class Curves(Callback):
    """Hands the row of each epoch to ``write``, in the first process only."""

    def __init__(self, phase: str, write: Callable[[EpochRow], None]) -> None:
        self.phase = phase
        self.write = write

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        logged = trainer.callback_metrics
        self.write(
            EpochRow(
                phase=self.phase,
                epoch=trainer.current_epoch + 1,
                learning_rate=float(trainer.optimizers[0].param_groups[0]["lr"]),
                metrics={
                    name: float(logged[name]) for name in (*METRICS, *_of_learning(logged)) if name in logged
                },
            )
        )


@dataclass(frozen=True)
class CurvesFile:
    """A CSV file of epoch rows. Phases follow one another in it."""

    path: Path

    def write(self, row: EpochRow) -> None:
        """Add ``row``; what an interrupted run left of this epoch and those after it gives way."""
        earlier = [old for old in self._read() if old["phase"] != row.phase or int(old["epoch"]) < row.epoch]
        new = {
            "phase": row.phase,
            "epoch": str(row.epoch),
            "learning_rate": f"{row.learning_rate:.6g}",
            **{name: f"{value:.6g}" for name, value in row.metrics.items()},
        }
        text = io.StringIO()
        rows = [*earlier, new]
        learning = _of_learning(name for each in rows for name in each)
        columns = ("phase", "epoch", "learning_rate", *METRICS, *learning)
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(self.path, text.getvalue())

    def phases(self) -> list[str]:
        """The phase of each row."""
        return [row["phase"] for row in self._read()]

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="") as lines:
            return list(csv.DictReader(lines))


def _of_learning(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that a method which learns has logged, each once, in order of appearance."""
    return [name for name in dict.fromkeys(names) if name.startswith(LEARNING)]
