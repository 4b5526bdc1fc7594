"""Factorisation of the pruned network, and its training afterwards."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pytorch_lightning as pl
from torch import nn

from prunelab.distributed.ranks import from_rank_zero, require_same
from prunelab.factorisation.factorise import factorise_as
from prunelab.factorisation.rank_choice import RankChoice
from prunelab.records import Accuracy
from prunelab.records.atomic import Write, set_aside
from prunelab.records.latency import LatencySummary
from prunelab.steps.decision import fingerprint, opened, sealed
from prunelab.steps.full import FullNetwork
from prunelab.steps.phase import fit_phase, teacher_of
from prunelab.steps.rounds import Pruned, best_epoch
from prunelab.steps.setup import Setup
from prunelab.structure.low_rank import Factorisation
from prunelab.structure.plan_steps import steps_of
from prunelab.training.best import KeepBest
from prunelab.training.divergence import require_finite

log = logging.getLogger(__name__)

RANKS_FILE = "low-rank.json"
"""The ranks that were chosen by measurement, which a resumed run must not choose again."""

PHASE = "low-rank"
"""The name of the training in learning curves."""


@dataclass(frozen=True)
class Factorised:
    """A factorised and recovered network.

    ``after`` is the accuracy before the training that follows. ``recovery_s`` is None if no training follows.
    ``best_epoch`` and ``best`` as in ``Pruned``. ``latency``: the measurements under ``lowrank.latency``.
    """

    network: nn.Module
    after: Accuracy
    seconds: float
    recovery_s: float | None
    best_epoch: int | None = None
    best: nn.Module | None = None
    latency: LatencySummary | None = None

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

    A resumed run factorises again, with the stored ranks, which gives the same network, and continues the training from
    its checkpoints in ``folder``. ``write`` writes them.
    """
    if setup.lowrank.decomposition == "none":
        return None
    network = copy.deepcopy(pruned.network)
    seconds, latency = _factorise(setup, network, folder / RANKS_FILE, write)
    after = setup.task.test_accuracy(network)
    last = setup.recipe.rounds(setup.budget.keep)[-1]
    if not setup.lowrank.recover or last.training is None:
        return Factorised(network, after, seconds, None, latency=latency)
    place = folder / f"low-rank-{fingerprint(network)[:12]}"
    keeper = KeepBest(place, write)
    teacher = teacher_of(full.network, last.distillation)
    recovery_s = fit_phase(setup, network, last.training, place, PHASE, write, [keeper], teacher)
    return Factorised(network, after, seconds, recovery_s, *best_epoch(network, keeper), latency)


def _factorise(
    setup: Setup, network: nn.Module, file: Path, write: Write
) -> tuple[float, LatencySummary | None]:
    """Factorise ``network`` in place; every process reads the same images. Returns the seconds, and what was measured.

    Ranks that are chosen by a latency are stored in ``file``.
    """
    task, settings = setup.task, setup.lowrank
    pl.seed_everything(task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    device = task.machine.device
    count = settings.images
    batches = [images.to(device) for images, _ in task.data.calibration_dataloader(count)] if count else []
    weights = fingerprint(network)
    known = None if settings.latency is None else from_rank_zero(lambda: stored_ranks(file, weights))
    network.to(device)
    choice = factorise_as(network, task.example_input().to(device), settings, batches, task.seed, known)
    network.to("cpu")
    if settings.latency is not None and known is None:
        from_rank_zero(lambda: store_ranks(choice, file, weights, write))
    require_finite(network, "the factorisation")
    require_same(fingerprint(network), "The processes factorised differently, so they cannot train together.")
    return time.perf_counter() - start, choice.latency


def store_ranks(choice: RankChoice, file: Path, weights: str, write: Write) -> None:
    """Write the ranks that were chosen for the network with this fingerprint."""
    file.parent.mkdir(parents=True, exist_ok=True)
    assert choice.latency is not None
    layers = {"layers": Factorisation(choice.layers).to_list()}
    write(file, sealed({"weights": weights, "factorised": layers, "latency": asdict(choice.latency)}))


def stored_ranks(file: Path, weights: str) -> RankChoice | None:
    """The stored ranks for exactly these weights, or None. A damaged file is set aside with a warning."""
    try:
        fields = opened(file.read_text(encoding="utf-8"))
        found = fields.mapping("factorised")["layers"]
        layers = Factorisation.from_list(found).layers if found else {}
        latency = LatencySummary.from_fields(fields.nested("latency"))
        stored = fields.text("weights")
    except FileNotFoundError:
        return None
    except (ValueError, KeyError) as error:
        log.warning(
            "%s is damaged (%s). It was renamed to %s; ranks are chosen again.",
            file,
            error,
            set_aside(file).name,
        )
        return None
    return RankChoice(layers, latency) if stored == weights else None
