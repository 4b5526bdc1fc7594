"""The progress bar of a training."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class TrainingBar(Callback):
    """One line per training: title, progress, epoch, newest validation accuracy, elapsed and remaining time."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        batches = int(trainer.num_training_batches)
        self._bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            TextColumn("{task.fields[accuracy]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task(
            self.title,
            total=batches * trainer.max_epochs if trainer.max_epochs else None,
            completed=batches * trainer.current_epoch,
            epoch=trainer.current_epoch,
            epochs=trainer.max_epochs,
            accuracy="",
        )
        self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        top1 = trainer.callback_metrics.get(
            "val/top1"
        )  # a collective operation: on all ranks, not where the bar is alone
        if self._bar is not None:
            accuracy = "" if top1 is None else f"val top-1 {100 * float(top1):.2f} %"
            self._bar.update(self._task, epoch=trainer.current_epoch + 1, accuracy=accuracy)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
