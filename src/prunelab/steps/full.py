"""The trained full network that a run starts from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunelab.distributed import held_by_rank_zero
from prunelab.distributed.ranks import from_rank_zero
from prunelab.methods.allocation.feasibility import require_feasible
from prunelab.records import Accuracy
from prunelab.steps.baseline_store import Baseline
from prunelab.steps.parts import portion
from prunelab.steps.setup import Setup
from prunelab.structure import ChannelGraph


@dataclass(frozen=True)
class FullNetwork:
    """A trained network, its structure, its accuracy on the test images, and what training it cost this run.

    ``training_s`` is 0 if the network came from the store.
    """

    network: nn.Module
    graph: ChannelGraph
    accuracy: Accuracy
    training_s: float


def full_network(setup: Setup) -> FullNetwork:
    """The baseline from the store; it is trained, once for all runs, if it is not there.

    Raises:
        UserError: the network or its budget cannot be; said before any training.
    """
    task, method = setup.task, setup.method
    task.prepare_data()
    network = task.network()
    graph = method.structure(network, task.example_input())
    reach = (setup.budget, method.levels, method.allocation, setup.names["model"])
    require_feasible(graph, *reach, exclude=method.exclude)
    last_part = setup.recipe.rounds(setup.budget.keep)[-1].part
    portion(graph, method, setup.budget, last_part)  # can it be done so?
    baseline, is_new = _stored_or_trained(setup)
    network.load_state_dict(baseline.weights)
    return FullNetwork(network, graph, baseline.accuracy, baseline.seconds if is_new else 0.0)


def _stored_or_trained(setup: Setup) -> tuple[Baseline, bool]:
    """The baseline, and whether it was made just now. Of all that ask for it at once, one makes it."""
    store, key = setup.store, setup.baseline_key
    if from_rank_zero(lambda: store.has(key)):
        return store.load(key), False
    with held_by_rank_zero(lambda: store.claimed(key)):
        if from_rank_zero(lambda: store.has(key)):  # made while this process waited
            return store.load(key), False
        baseline = _trained(setup, store.folder(key))
        from_rank_zero(lambda: store.save(key, baseline))
        return baseline, True


def _trained(setup: Setup, folder: Path) -> Baseline:
    network, seconds = setup.baseline.train(setup.task, folder)
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
    return Baseline(weights, setup.task.test_accuracy(network), seconds)
