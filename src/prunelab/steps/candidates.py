"""CandidateTraining: how a run trains the candidate networks of a search."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from prunelab.distributed.ranks import from_rank_zero
from prunelab.errors import UserError
from prunelab.records.atomic import Write, write_atomically
from prunelab.steps.setup import Setup
from prunelab.training import Teacher, Training, fit


@dataclass(frozen=True)
class CandidateTraining:
    """Trains a network in place on the training images of the run.

    setup: of the run: images, machine, seed.
    recovery: used if a method names no training of its own; None if the recipe has no recovery.
    folder: where the checkpoints of an interrupted training are kept; those of a finished one are removed.
    write: writes the checkpoints.
    teacher: its outputs are additional targets of the candidates, if given.
    """

    setup: Setup
    recovery: Training | None
    folder: Path
    write: Write = field(default=write_atomically)
    teacher: Teacher | None = None

    def __call__(self, network: nn.Module, epochs: int, training: Training | None, name: str) -> None:
        """Train for ``epochs`` epochs; see ``PruningContext.train``.

        Raises:
            UserError: neither the method nor the recipe has a training.
        """
        chosen = training or self.recovery
        if chosen is None:
            raise UserError(
                f"{self.setup.names['method']} trains candidates, but neither method.training nor recipe.training is "
                "given: choose a recipe with training."
            )
        folder = self.folder / name
        task = self.setup.task
        fit(
            network,
            task.data,
            chosen.lasting(epochs),
            machine=task.machine,
            seed=task.seed,
            folder=folder,
            title=name,
            write=self.write,
            teacher=self.teacher,
        )
        from_rank_zero(lambda: shutil.rmtree(folder, ignore_errors=True))
