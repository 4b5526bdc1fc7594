"""The trained full network that a run starts from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunelab.distributed import held_by_rank_zero, is_rank_zero
from prunelab.distributed.ranks import from_rank_zero, on_all_ranks
from prunelab.errors import UserError
from prunelab.evaluation import LatencyModel
from prunelab.methods.allocation.feasibility import require_feasible
from prunelab.models.state import load_state
from prunelab.records import Accuracy
from prunelab.records.claim import Claim
from prunelab.steps.baseline_store import Baseline
from prunelab.steps.parts import portion
from prunelab.steps.setup import Setup
from prunelab.structure import ChannelGraph
from prunelab.training.divergence import require_finite

log = logging.getLogger(__name__)

CHECKED_IMAGES = 128
LEAST_AGREEMENT = 0.95
"""Rounding on another device changes the predictions of a few images, for which two classes have equal logits."""

ACCURACY_TOLERANCE = 0.01


@dataclass(frozen=True)
class FullNetwork:
    """A trained network, its structure, its accuracy on the test images, and the seconds of its training in this run.

    ``training_s`` is 0 if the network came from the store. ``latency`` is measured for a latency budget.
    """

    network: nn.Module
    graph: ChannelGraph
    accuracy: Accuracy
    training_s: float
    latency: LatencyModel | None = None


def full_network(setup: Setup) -> FullNetwork:
    """The baseline from the store; if it is not there, it is trained and stored for all runs.

    Raises:
        UserError: the network cannot be built or the budget cannot be reached (both are checked before any training),
            or the training of the baseline diverged.
    """
    task, method = setup.task, setup.method
    task.prepare_data()
    network = task.network()
    graph = method.structure(network, task.example_input())
    latency = None
    if setup.budget.resource == "latency":
        latency = LatencyModel.of(network, graph, task.example_input(), setup.budget.goal)
        graph = latency.attach(graph)
    reach = (setup.budget, method.levels, method.allocation, setup.names["model"])
    require_feasible(graph, *reach, exclude=method.exclude)
    last_part = setup.recipe.rounds(setup.budget.keep)[-1].part
    portion(graph, method, setup.budget, last_part)  # raises if the recipe cannot prune in parts
    baseline, is_new = _stored_or_trained(setup)
    load_state(network, baseline.weights)
    require_finite(network, "the baseline was loaded")
    if not is_new:
        on_all_ranks(lambda: require_as_stored(setup, network, baseline))
    _warn_at_chance_level(setup, baseline.accuracy)
    return FullNetwork(network, graph, baseline.accuracy, baseline.seconds if is_new else 0.0, latency)


def _warn_at_chance_level(setup: Setup, accuracy: Accuracy) -> None:
    """Warn if the baseline does not classify better than the constant answer "the most frequent class"."""
    test_set = setup.task.test_set()
    if is_rank_zero() and setup.task.machine.batches is None and test_set.is_chance(accuracy.top1):
        log.warning(
            "The baseline, %s on %s, is at chance level: %.2f %% top-1, and %.2f %% of the test images are in the most "
            "frequent class. Methods cannot be compared on it. Check the data, baseline.training.lr and "
            "baseline.training.epochs.",
            setup.names["model"],
            setup.names["data"],
            100 * accuracy.top1,
            100 * test_set.largest_class,
        )


def _stored_or_trained(setup: Setup) -> tuple[Baseline, bool]:
    """The baseline, and whether this run trained it. If several processes need it at the same time, one trains it."""
    store, key = setup.store, setup.baseline_key
    if from_rank_zero(lambda: store.is_sound(key)):
        return store.load(key), False
    what = f"the baseline {key}"
    with held_by_rank_zero(lambda: store.claimed(key), elsewhere=Claim(what)) as claim:
        from_rank_zero(lambda: store.set_damaged_aside(key))
        if from_rank_zero(lambda: store.has(key)):  # stored while this process waited
            return store.load(key), False
        baseline = _trained(setup, store.folder(key), claim)
        from_rank_zero(lambda: store.save(key, baseline, claim))
        return baseline, True


def _trained(setup: Setup, folder: Path, claim: Claim) -> Baseline:
    network, seconds = setup.baseline.train(setup.task, folder, claim.write, setup.logger.baseline_epoch)
    require_finite(network, "the baseline was trained or read")
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    sample = setup.task.sample(network, CHECKED_IMAGES)
    accuracy = setup.task.test_accuracy(network)
    if is_rank_zero():
        setup.logger.baseline_finished(accuracy)
    return Baseline(weights, accuracy, seconds, sample)


def require_as_stored(setup: Setup, network: nn.Module, baseline: Baseline) -> None:
    """Compare the predictions of a baseline from the store with those that were stored with it.

    The key of a baseline contains its known dependencies. This check detects any other difference: an edited
    network of an installed package, another version of a library, exchanged images of a published data set.

    Raises:
        UserError: the network predicts other classes than the one that was stored.
    """
    task, folder = setup.task, setup.store.root / setup.baseline_key
    if baseline.sample is None:  # of an earlier version
        found = task.test_accuracy(network).top1
        differs = abs(found - baseline.accuracy.top1) > ACCURACY_TOLERANCE
        evidence = (
            f"a top-1 accuracy of {found:.2%} instead of {baseline.accuracy.top1:.2%} on the test images"
        )
    else:
        sample = task.sample(network, CHECKED_IMAGES)
        agreement = sample.agreement(baseline.sample)
        differs = agreement < LEAST_AGREEMENT
        evidence = (
            f"the stored predictions for {agreement:.0%} of {len(sample.predictions)} validation images, with a top-1 "
            f"accuracy of {sample.top1:.2%} instead of {baseline.sample.top1:.2%}"
        )
    if differs:
        raise UserError(
            f"The baseline {folder} no longer belongs to this network and these images: it gives "
            f"{evidence}. Has a package with the network, or the data set, changed since it was stored? Delete the "
            "folder to train the baseline again."
        )
