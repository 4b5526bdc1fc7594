"""Pruning and recovery of a network, in one round or several."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from prunelab.distributed import is_rank_zero
from prunelab.distributed.ranks import from_rank_zero, require_same
from prunelab.errors import UserError
from prunelab.methods import LearningMethod, PruningCallback, PruningContext
from prunelab.methods.latency_budget import decide
from prunelab.models.state import load_state
from prunelab.recipes import Round
from prunelab.records import Accuracy, Calibrated
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.evaluations import no_report
from prunelab.records.latency import LatencySummary
from prunelab.steps.calibrate import calibrate
from prunelab.steps.candidates import CandidateTraining
from prunelab.steps.decision import Decision, RoundFolder, fingerprint
from prunelab.steps.full import FullNetwork
from prunelab.steps.parts import portion
from prunelab.steps.phase import fit_phase, teacher_of
from prunelab.steps.setup import Setup
from prunelab.steps.shared_search import search_folder
from prunelab.structure import ChannelGraph, PruningPlan, apply, check
from prunelab.tracking import Curves
from prunelab.training import Teacher, fit
from prunelab.training.best import KeepBest
from prunelab.training.divergence import require_finite
from prunelab.training.restored_plan import prune_as

CHECKED_IMAGES = 4
FRESH_SEED = 1_000_003
"""Added to the seed of fresh weights, which would otherwise equal the initial weights of the baseline."""

TOLERANCE = 1e-4
"""Largest relative difference between the pruned and the masked network that is accepted if all groups are exact."""


@dataclass(frozen=True)
class Pruned:
    """A pruned and recovered network, and figures of its rounds.

    ``best_epoch`` is the epoch of the recovery with the highest accuracy on the validation images (None without a
    recovery), and ``best`` the network after it, None if it is the last epoch.

    ``plan`` contains everything that was removed from the full network. ``after_pruning`` is the accuracy after the
    last pruning, before the training that follows; ``masked_vs_pruned`` the largest relative difference between masked
    and pruned outputs over all rounds; ``score_s`` the seconds of learning and deciding.
    ``after_calibration``: accuracies of the last round, step by step; the seconds of all steps are in ``recovery_s``.
    ``latency``: what the last round measured under a latency budget.
    """

    network: nn.Module
    plan: PruningPlan
    after_pruning: Accuracy
    masked_vs_pruned: float
    score_s: float
    recovery_s: float
    best_epoch: int | None = None
    best: nn.Module | None = None
    after_calibration: tuple[Calibrated, ...] = ()
    latency: LatencySummary | None = None


def prune_and_recover(
    setup: Setup, full: FullNetwork, folder: Path, write: Write = write_atomically
) -> Pruned:
    """Prune and recover a copy of the full network, as the recipe defines.

    Every round stores its decision and the newest checkpoints of its trainings in ``folder``/<round>..., and reuses
    existing ones. A resumed run therefore repeats only the epoch that was interrupted. ``write`` writes these files.
    """
    network = copy.deepcopy(full.network)
    rounds = setup.recipe.rounds(setup.budget.keep)
    difference = score_s = recovery_s = 0.0
    for number, step in enumerate(rounds, start=1):
        last = number == len(rounds)
        place = RoundFolder(folder / str(number), write)
        teacher = teacher_of(full.network, step.distillation)
        with search_folder(setup, place, len(rounds)) as searched:
            context = _context(setup, network, step, full, searched, teacher, number, last)
            score_s += _learn(setup, context, searched, "learning" if last else f"learning {number}")
            decision = _decide(setup, context, place)
        before = copy.deepcopy(network) if step.calibration else network
        score_s += decision.seconds + _reconstruct(setup, context, decision.plan)
        difference = max(difference, _prune(setup, network, decision.plan, context.graph))
        if last:
            after_pruning = setup.task.test_accuracy(network)
        stem = place.recovery(decision)
        calibrated = calibrate(setup, before, network, decision.plan, step.calibration, stem, write)
        recovery_s += sum(each.seconds for each in calibrated)
        phase = "recovery" if last else f"round {number}"
        keeper = KeepBest(place.recovery(decision), write) if last else None
        recovery_s += _recover(setup, network, step, place, decision, phase, keeper, teacher)
    plan = cast(PruningPlan, network.prunelab_plan)  # the plans of all rounds, composed
    best = best_epoch(network, keeper) if keeper is not None else (None, None)
    return Pruned(
        network, plan, after_pruning, difference, score_s, recovery_s, *best, calibrated, decision.latency
    )


def best_epoch(network: nn.Module, keeper: KeepBest) -> tuple[int | None, nn.Module | None]:
    """The best epoch, and a copy of ``network`` with its weights, None if it is the last epoch."""
    if keeper.epoch is None or keeper.is_last:
        return keeper.epoch, None
    weights = from_rank_zero(keeper.weights)
    if weights is None:
        return None, None
    best = copy.deepcopy(network)
    load_state(best, weights)
    return keeper.epoch, best


def _context(
    setup: Setup,
    network: nn.Module,
    step: Round,
    full: FullNetwork,
    place: RoundFolder,
    teacher: Teacher | None,
    number: int,
    last: bool,
) -> PruningContext:
    """The input of the method in this round."""
    work = portion(full.graph, setup.method, setup.budget.keeping(step.keep), step.part)
    reference = None if number == 1 else full.graph
    phase = "search" if last else f"search {number}"
    search = place.search(fingerprint(network))
    return setup.context(
        network,
        budget=work.budget,
        exclude=work.exclude,
        reference=reference,
        latency=full.latency,
        folder=search,
        write=place.write,
        report=partial(setup.logger.evaluations, phase) if is_rank_zero() else no_report,
        train_candidate=CandidateTraining(setup, step.training, search, place.write, teacher),
    )


def _learn(setup: Setup, context: PruningContext, place: RoundFolder, phase: str) -> float:
    """Train the network with a learning method; returns the seconds, 0 for a method that does not learn."""
    method = setup.method
    if not isinstance(method, LearningMethod):
        return 0.0
    if method.training is None:
        raise UserError(f"{setup.names['method']} learns while the network trains: set method.training.")
    folder = place.learning(_common_fingerprint(context.model))
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    method.begin(context)
    return fit(
        context.model,
        setup.task.data,
        method.training,
        machine=setup.task.machine,
        seed=setup.task.seed,
        folder=folder,
        title=phase,
        callbacks=[PruningCallback(method), Curves(phase, setup.logger.epoch, setup.logger.restore)],
        write=place.write,
    )


def _common_fingerprint(network: nn.Module) -> str:
    """The fingerprint of the weights. Raises UserError if they differ between the processes."""
    weights = fingerprint(network)
    require_same(weights, "The processes hold different weights, so they cannot prune together.")
    return weights


def _decide(setup: Setup, context: PruningContext, place: RoundFolder) -> Decision:
    """The plan of this round: the stored one for these weights, or a new one, which is stored."""
    weights = _common_fingerprint(context.model)
    if (decision := from_rank_zero(lambda: place.decision(weights))) is not None:
        return decision
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    context.model.to(context.device)
    plan, latency = decide(setup.method, context)
    context.model.to("cpu")
    require_same(plan.digest(), "The processes decided different plans, so they cannot train together.")
    decision = Decision(plan, weights, time.perf_counter() - start, latency)
    from_rank_zero(lambda: place.decide(decision))
    return decision


def _reconstruct(setup: Setup, context: PruningContext, plan: PruningPlan) -> float:
    """Adjust the kept weights by a reconstruction method; returns the seconds."""
    if not setup.method.reconstructs:
        return 0.0
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    context.model.to(context.device)
    setup.method.reconstruct(context, plan)
    context.model.to("cpu")
    require_finite(context.model, "the reconstruction")
    return time.perf_counter() - start


def _draw_weights(setup: Setup, network: nn.Module) -> None:
    """Replace the weights of the pruned network by random initial ones; only its architecture is kept."""
    pl.seed_everything(setup.task.seed + FRESH_SEED, workers=True, verbose=False)
    fresh = setup.task.network()
    prune_as(fresh, cast(PruningPlan, network.prunelab_plan))
    network.load_state_dict(fresh.state_dict())


def _prune(setup: Setup, network: nn.Module, plan: PruningPlan, graph: ChannelGraph) -> float:
    """Prune ``network``; returns its relative difference from the masked network on a few images."""
    before = copy.deepcopy(network)
    apply(network, plan)
    images, _ = next(iter(setup.task.data.calibration_dataloader(CHECKED_IMAGES)))
    device = next(network.parameters()).device  # images may be on the GPU, the network is not
    difference = check(before, network, plan, images.to(device))
    if not math.isfinite(difference):
        _require_finite_outputs(before, images.to(device))
    shrunk = {name for name, (width, left) in plan.widths.items() if left < width}
    exact = all(group.exact for group in graph.groups if group.name in shrunk)
    if not math.isfinite(difference) or (exact and not difference <= TOLERANCE):
        raise RuntimeError(f"the pruned network differs from the masked one by {difference:.1e}, relatively")
    return difference


@torch.no_grad()
def _require_finite_outputs(network: nn.Module, images: Tensor) -> None:
    """Raise UserError if the outputs overflow, which finite but huge weights cause: a training has diverged."""
    if not bool(network.eval()(images).isfinite().all()):
        raise UserError(
            "The outputs of the network are NaN or infinite before it is pruned, although its weights are finite: the "
            "last training has diverged. Lower its learning rate (method.training.lr of a method that learns, "
            "recipe.round_training.lr between rounds)."
        )


def _recover(
    setup: Setup,
    network: nn.Module,
    step: Round,
    place: RoundFolder,
    decision: Decision,
    phase: str,
    keeper: KeepBest | None,
    teacher: Teacher | None,
) -> float:
    """Train the pruned network as the recipe defines; returns the seconds. ``keeper`` keeps the best epoch."""
    if step.weights == "fresh":
        _draw_weights(setup, network)
    if step.training is None:
        return 0.0
    keepers = [] if keeper is None else [keeper]
    return fit_phase(
        setup, network, step.training, place.recovery(decision), phase, place.write, keepers, teacher
    )
