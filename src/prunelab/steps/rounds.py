"""Pruning and recovering a network, in one round or several."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytorch_lightning as pl
from torch import nn

from prunelab.distributed.ranks import from_rank_zero, require_same
from prunelab.errors import UserError
from prunelab.methods import Budget, LearningMethod, PruningCallback, PruningContext
from prunelab.recipes import Round
from prunelab.records import Accuracy
from prunelab.steps.candidates import CandidateTraining
from prunelab.steps.decision import Decision, RoundFolder, fingerprint
from prunelab.steps.full import FullNetwork
from prunelab.steps.parts import portion
from prunelab.steps.setup import Setup
from prunelab.structure import ChannelGraph, PruningPlan, apply, check
from prunelab.tracking import Curves
from prunelab.training import fit
from prunelab.training.restored_plan import prune_as

CHECKED_IMAGES = 4
TOLERANCE = 1e-4
"""Largest relative difference between a pruned network and the masked one where all groups are exact."""


@dataclass(frozen=True)
class Pruned:
    """A pruned and recovered network, and what is known of the way there.

    ``plan`` is all that was removed from the full network. ``after_pruning`` is the accuracy between the
    last pruning and the training that follows; ``masked_vs_pruned`` the largest relative difference between
    masked and pruned outputs over all rounds; ``score_s`` the seconds of learning what to keep, and of deciding.
    """

    network: nn.Module
    plan: PruningPlan
    after_pruning: Accuracy
    masked_vs_pruned: float
    score_s: float
    recovery_s: float


def prune_and_recover(setup: Setup, full: FullNetwork, folder: Path) -> Pruned:
    """Prune and recover a copy of the full network, as the recipe says.

    Every round keeps its decision and the newest checkpoints of its trainings in ``folder``/<round>..., and
    uses what it finds there. So an interrupted run repeats nothing but the epoch that it was in.
    """
    network = copy.deepcopy(full.network)
    rounds = setup.recipe.rounds(setup.budget.keep)
    difference = score_s = recovery_s = 0.0
    for number, step in enumerate(rounds, start=1):
        last = number == len(rounds)
        place = RoundFolder(folder / str(number))
        context = _context(setup, network, step, full.graph, place, is_first=number == 1)
        score_s += _learn(setup, context, place, "learning" if last else f"learning {number}")
        decision = _decide(setup, context, place)
        score_s += decision.seconds + _reconstruct(setup, context, decision.plan)
        difference = max(difference, _prune(setup, network, decision.plan, context.graph))
        if last:
            after_pruning = setup.task.test_accuracy(network)
        phase = "recovery" if last else f"round {number}"
        recovery_s += _recover(setup, network, step, place.path, phase)
    plan = cast(PruningPlan, network.prunelab_plan)  # what all rounds did, in one
    return Pruned(network, plan, after_pruning, difference, score_s, recovery_s)


def _context(
    setup: Setup, network: nn.Module, step: Round, full: ChannelGraph, place: RoundFolder, is_first: bool
) -> PruningContext:
    """The input of the method in this round; ``full`` is the structure before the first round."""
    work = portion(full, setup.method, _budget(setup.budget, step.keep), step.part)
    reference = None if is_first else full
    search = place.search(fingerprint(network))
    return setup.context(
        network,
        budget=work.budget,
        exclude=work.exclude,
        reference=reference,
        folder=search,
        train_candidate=CandidateTraining(setup, step.training, search),
    )


def _learn(setup: Setup, context: PruningContext, place: RoundFolder, phase: str) -> float:
    """Train the network while the method learns, if it is one that does; returns the seconds that it took."""
    method = setup.method
    if not isinstance(method, LearningMethod):
        return 0.0
    if method.training is None:
        raise UserError(f"{setup.names['method']} learns while the network trains: give method.training.")
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
        callbacks=[PruningCallback(method), Curves(phase, setup.logger.epoch)],
    )


def _common_fingerprint(network: nn.Module) -> str:
    """Which weights these are; the same ones in all processes, or the run ends."""
    weights = fingerprint(network)
    require_same(weights, "The processes hold different weights, so they cannot prune together.")
    return weights


def _decide(setup: Setup, context: PruningContext, place: RoundFolder) -> Decision:
    """What to keep of the network in this round."""
    weights = _common_fingerprint(context.model)
    if (decision := from_rank_zero(lambda: place.decision(weights))) is not None:
        return decision
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    context.model.to(context.device)
    plan = setup.method.decide(context)
    context.model.to("cpu")
    require_same(plan.digest(), "The processes decided different plans, so they cannot train together.")
    decision = Decision(plan, weights, time.perf_counter() - start)
    from_rank_zero(lambda: place.decide(decision))
    return decision


def _reconstruct(setup: Setup, context: PruningContext, plan: PruningPlan) -> float:
    """Let the method adjust the weights that stay; returns the seconds that it took."""
    if not setup.method.reconstructs:
        return 0.0
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    start = time.perf_counter()
    context.model.to(context.device)
    setup.method.reconstruct(context, plan)
    context.model.to("cpu")
    return time.perf_counter() - start


def _draw_weights(setup: Setup, network: nn.Module) -> None:
    """Give the pruned network the initial weights of a new one: only its architecture is inherited."""
    pl.seed_everything(setup.task.seed, workers=True, verbose=False)
    fresh = setup.task.network()
    prune_as(fresh, cast(PruningPlan, network.prunelab_plan))
    network.load_state_dict(fresh.state_dict())


def _budget(final: Budget, keep: float) -> Budget:
    """The budget of a round: ``keep`` of the resource that the final budget limits."""
    return replace(final, **{final.resource: keep})


def _prune(setup: Setup, network: nn.Module, plan: PruningPlan, graph: ChannelGraph) -> float:
    """Prune ``network`` for real; returns how far it is from the masked one, as measured on a few images."""
    before = copy.deepcopy(network)
    apply(network, plan)
    images, _ = next(iter(setup.task.data.calibration_dataloader(CHECKED_IMAGES)))
    device = next(network.parameters()).device  # images may be held on the GPU, where the network is not
    difference = check(before, network, plan, images.to(device))
    shrunk = {name for name, (width, left) in plan.widths.items() if left < width}
    exact = all(group.exact for group in graph.groups if group.name in shrunk)
    if exact and not difference <= TOLERANCE:
        raise RuntimeError(f"the pruned network differs from the masked one by {difference:.1e}, relatively")
    return difference


def _recover(setup: Setup, network: nn.Module, step: Round, folder: Path, phase: str) -> float:
    if step.weights == "fresh":
        _draw_weights(setup, network)
    if step.training is None:
        return 0.0
    return fit(
        network,
        setup.task.data,
        step.training,
        machine=setup.task.machine,
        seed=setup.task.seed,
        folder=folder,
        title=phase,
        callbacks=[Curves(phase, setup.logger.epoch)],
    )
