"""One resumable training of a network."""

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
from prunelab.distributed.ranks import from_rank_zero
from prunelab.records.atomic import Write, write_atomically
from prunelab.training.buffers import SameBuffers
from prunelab.training.checkpoints import CheckedCheckpoints, KeepNewest, newest_sound
from prunelab.training.classifier import Classifier
from prunelab.training.distillation import Teacher
from prunelab.training.divergence import StopOnDivergence, require_finite
from prunelab.training.machine import SRUN_ADVICE, Machine
from prunelab.training.progress import TrainingBar
from prunelab.training.seeding import SeedEachEpoch
from prunelab.training.settings import Training
from prunelab.training.whole_batch import WholeBatch

# Lightning's hints for authors of training scripts, and deprecations of its own dependencies: users of prunelab cannot
# act on them.
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
    write: Write = write_atomically,
    teacher: Teacher | None = None,
) -> float:
    """Train ``backbone`` in place; returns the seconds that it took, including those before an interruption.

    A checkpoint is written into ``folder`` after each epoch. If the folder holds checkpoints, the training continues
    from the newest undamaged one; therefore the folder must be used for this network, data and training only.

    Args:
        backbone: images (N, C, H, W) to logits (N, classes).
        data: the training and validation images.
        training: optimizer, schedule and number of epochs.
        machine: accelerator, precision and number of processes.
        seed: seeds the random generators at the start of each epoch.
        folder: the folder of the checkpoints.
        title: the name of the training in the progress bar and in messages.
        callbacks: further Lightning callbacks.
        write: writes the checkpoints.
        teacher: its outputs are additional targets, if given.

    Raises:
        UserError: ``machine`` cannot be used here, or the weights are NaN or infinite after an epoch.
        KeyboardInterrupt: the user pressed Ctrl-C.
        SystemExit: the process received SIGTERM; the code is 143.
    """
    if machine.batches is not None:
        training = training.lasting(1)
    clock = Timer()
    model = Classifier(
        backbone, data.num_classes, training, machine.channels_last, machine.compile, machine.fused, teacher
    )
    with _without_advice(), _interruptible():
        trainer = machine.trainer(
            max_epochs=training.epochs,
            callbacks=[
                SeedEachEpoch(seed),
                SameBuffers(),
                WholeBatch(machine.sync_batchnorm),
                clock,
                TrainingBar(title),
                *callbacks,
                StopOnDivergence(title),
                KeepNewest(folder),
            ],
            logger=False,
            plugins=[CheckedCheckpoints(write)],
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(
            model, datamodule=data, ckpt_path=from_rank_zero(lambda: newest_sound(folder)), weights_only=True
        )
    require_finite(backbone, title)
    return clock.time_elapsed()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for Ctrl-C during a fit, and exit with 143 after SIGTERM.

    Lightning ends the process with code 1 and 0 for these, so a shell could not distinguish an interrupted run from a
    finished one.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as ending:
        if isinstance(ending.__context__, KeyboardInterrupt):
            signal.signal(signal.SIGINT, handler)  # Lightning set it to ignore
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
