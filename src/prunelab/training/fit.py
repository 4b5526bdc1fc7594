"""One training of a network, which goes on where it stopped if it was interrupted."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pytorch_lightning import Callback
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from prunelab.data import ImageData
from prunelab.training.buffers import SameBuffers
from prunelab.training.checkpoints import NEWEST, AtomicCheckpoints, keep_newest
from prunelab.training.classifier import Classifier
from prunelab.training.machine import SRUN_ADVICE, Machine
from prunelab.training.progress import TrainingBar
from prunelab.training.seeding import SeedEachEpoch
from prunelab.training.settings import Training

# Lightning's advice to whoever writes a training script, and its own affairs: nothing that a user can act on.
ADVICE = (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",
    "The '.*_dataloader' does not have many workers",
    "The number of training batches .* is smaller than the logging interval",
    "Checkpoint directory .* exists and is not empty",
    SRUN_ADVICE,
)


def fit(
    backbone: nn.Module,
    data: ImageData,
    training: Training,
    *,
    machine: Machine,
    seed: int,
    folder: Path,
    title: str,
    callbacks: Sequence[Callback] = (),
) -> float:
    """Train ``backbone`` in place; returns the seconds that it took, those before an interruption included.

    The state after each epoch is kept in ``folder``/newest.ckpt. If that file is there, training goes on from
    it, so the folder must belong to this network, data and training alone.

    Raises:
        UserError: this machine does not have what ``machine`` asks for.
        KeyboardInterrupt: the user pressed Ctrl-C.
        SystemExit: the process was told to stop (SIGTERM); its code is 143.
    """
    if machine.batches is not None:
        training = training.lasting(1)
    clock = Timer()
    model = Classifier(
        backbone, data.num_classes, training, machine.channels_last, machine.compile, machine.fused
    )
    with _without_advice(), _interruptible():
        trainer = machine.trainer(
            max_epochs=training.epochs,
            callbacks=[
                SeedEachEpoch(seed),
                SameBuffers(),
                clock,
                TrainingBar(title),
                *callbacks,
                keep_newest(folder),
            ],
            logger=False,
            plugins=[AtomicCheckpoints()],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        newest = folder / NEWEST
        trainer.fit(model, datamodule=data, ckpt_path=newest if newest.is_file() else None, weights_only=True)
    return clock.time_elapsed()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C during a fit arrives as KeyboardInterrupt, where Lightning ends the process with code 1.

    After SIGTERM the process ends as shells count, where Lightning ends it with 0, as if all were done.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)  # Lightning switched it off
            raise KeyboardInterrupt from None
        if isinstance(ending, SIGTERMException):
            raise SystemExit(128 + signal.SIGTERM) from None
        raise


@contextmanager
def _without_advice() -> Iterator[None]:
    with warnings.catch_warnings():
        for message in ADVICE:
            warnings.filterwarnings("ignore", message)
        yield
