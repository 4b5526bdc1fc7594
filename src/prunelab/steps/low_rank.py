"""Factorisation of the pruned network, and its training afterwards."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from prunelab.distributed.ranks import require_same
from prunelab.factorisation import factorise
from prunelab.records import Accuracy
from prunelab.records.atomic import Write
from prunelab.steps.decision import fingerprint
from prunelab.steps.full import FullNetwork
from prunelab.steps.phase import fit_phase
from prunelab.steps.rounds import Pruned, best_epoch
from prunelab.steps.setup import Setup
from prunelab.structure.low_rank import Factorisation
from prunelab.structure.plan_steps import steps_of
from prunelab.training import Teacher
from prunelab.training.best import KeepBest
from prunelab.training.divergence import require_finite

PHASE = "low-rank"
"""The name of the training in learning curves."""


@dataclass(frozen=True)
class Factorised:
    """A factorised and recovered network.

    ``after`` is the accuracy before the training that follows. ``recovery_s`` is None if no training follows.
    ``best_epoch`` and ``best`` as in ``Pruned``.
    """

    network: nn.Module
    after: Accuracy
    seconds: float
    recovery_s: float | None
    best_epoch: int | None = None
    best: nn.Module | None = None

    @property
    def layers(self) -> Mapping[str, str]:
        """The replaced layers, with form and ranks in words."""
        return {
            path: str(factors)
            for step in steps_of(getattr(self.network, "prunelab_plan", None))
            if isinstance(step, Factorisation)
            for path, factors in step.layers.items()
        }


def factorise_and_recover(
    setup: Setup, full: FullNetwork, pruned: Pruned, folder: Path, write: Write
) -> Factorised | None:
    """Factorise and train a copy of the pruned network; None with lowrank=none.

    A resumed run factorises again, which gives the same network, and continues the training from its checkpoints in
    ``folder``. ``write`` writes them.
    """
    if setup.lowrank.decomposition == "none":
        return None
    network = copy.deepcopy(pruned.network)
    seconds = _factorise(setup, network)
    after = setup.task.test_accuracy(network)
    last = setup.recipe.rounds(setup.budget.keep)[-1]
    if not setup.lowrank.recover or last.training is None:
        return Factorised(network, after, seconds, None)
    place = folder / f"low-rank-{fingerprint(network)[:12]}"
    keeper = KeepBest(place, write)
    teacher = None if last.distillation is None else Teacher(full.network, last.distillation)
    recovery_s = fit_phase(setup, network, last.training, place, PHASE, write, [keeper], teacher)
    return Factorised(network, after, seconds, recovery_s, *best_epoch(network, keeper))


def _factorise(setup: Setup, network: nn.Module) -> float:
    """Factorise ``network`` in place; every process reads the same images. Returns the seconds."""
    task, settings = setup.task, setup.lowrank
    pl.seed_everything(task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    device = task.machine.device
    count = settings.images
    batches = [images.to(device) for images, _ in task.data.calibration_dataloader(count)] if count else []
    network.to(device)
    factorise(network, task.example_input().to(device), settings, batches, task.seed)
    network.to("cpu")
    require_finite(network, "the factorisation")
    require_same(fingerprint(network), "The processes factorised differently, so they cannot train together.")
    return time.perf_counter() - start
