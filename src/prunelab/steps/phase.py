"""One training of a pruned network in a run: on its data and machine, with its learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pytorch_lightning import Callback
from torch import nn

from prunelab.records.atomic import Write
from prunelab.steps.setup import Setup
from prunelab.tracking import Curves
from prunelab.training import Distillation, Teacher, Training, fit


def teacher_of(network: nn.Module, settings: Distillation | None) -> Teacher | None:
    """The full ``network`` as the teacher of a training; None without distillation."""
    return None if settings is None else Teacher(network, settings)


def fit_phase(
    setup: Setup,
    network: nn.Module,
    training: Training,
    folder: Path,
    phase: str,
    write: Write,
    callbacks: Sequence[Callback] = (),
    teacher: Teacher | None = None,
) -> float:
    """Train ``network`` in place; returns the seconds. ``phase``: its name in learning curves and on the screen.

    ``folder`` keeps checkpoints, which ``write`` writes; ``callbacks`` run after the one of the curves.
    """
    return fit(
        network,
        setup.task.data,
        training,
        machine=setup.task.machine,
        seed=setup.task.seed,
        folder=folder,
        title=phase,
        callbacks=[Curves(phase, setup.logger.epoch, setup.logger.restore), *callbacks],
        write=write,
        teacher=teacher,
    )
