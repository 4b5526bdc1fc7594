"""The figures of the full and of the pruned network."""

from __future__ import annotations

import time
from dataclasses import dataclass

from torch import nn

from prunelab.distributed.ranks import from_rank_zero
from prunelab.evaluation import other_load
from prunelab.records import Accuracy, BestEpoch, Metrics
from prunelab.steps.full import FullNetwork
from prunelab.steps.rounds import Pruned
from prunelab.steps.setup import Setup
from prunelab.structure import ChannelGraph, analyze
from prunelab.training.divergence import require_finite


@dataclass(frozen=True)
class Figures:
    """Accuracy and cost of both networks, and the seconds of the measurement.

    ``validation`` is the accuracy of the pruned and recovered network on the validation images. ``other_load`` is the
    number of processor cores that other processes used during the timing, None if it is not known.
    """

    baseline: Metrics
    pruned: Metrics
    validation: Accuracy
    best_epoch: BestEpoch | None
    other_load: float | None
    seconds: float


def measure(setup: Setup, full: FullNetwork, pruned: Pruned) -> Figures:
    """Accuracy on the test images, cost of the networks, and the time of a forward pass.

    Raises:
        UserError: the weights or the outputs of the pruned network are not finite.
    """
    start = time.perf_counter()
    require_finite(pruned.network, "recovery")
    task = setup.task
    validation = task.validation_accuracy(pruned.network)
    accuracy = task.test_accuracy(pruned.network)
    graph = analyze(pruned.network, task.example_input())
    best_epoch = _best_epoch(setup, pruned, validation, accuracy)
    (full_latency, pruned_latency), load = from_rank_zero(
        lambda: _latencies(setup, full.network, pruned.network)
    )
    return Figures(
        baseline=_metrics(full.accuracy, full.graph, full_latency),
        pruned=_metrics(accuracy, graph, pruned_latency),
        validation=validation,
        best_epoch=best_epoch,
        other_load=load,
        seconds=time.perf_counter() - start,
    )


def _best_epoch(setup: Setup, pruned: Pruned, validation: Accuracy, accuracy: Accuracy) -> BestEpoch | None:
    """The accuracies of the best epoch; those of the last epoch are passed."""
    if pruned.best_epoch is None:
        return None
    if pruned.best is None:
        return BestEpoch(pruned.best_epoch, validation, accuracy)
    task = setup.task
    return BestEpoch(
        pruned.best_epoch, task.validation_accuracy(pruned.best), task.test_accuracy(pruned.best)
    )


def _latencies(setup: Setup, *networks: nn.Module) -> tuple[list[dict[int, float]], float | None]:
    """The times of the networks, and the load by other processes during the measurement."""
    with other_load() as load:
        times = setup.task.latencies(*networks)
    return times, load.cores


def _metrics(accuracy: Accuracy, graph: ChannelGraph, latency_ms: dict[int, float]) -> Metrics:
    cost = graph.cost
    return Metrics(
        top1=accuracy.top1,
        top5=accuracy.top5,
        flops=int(cost.flops()),
        macs=int(cost.macs()),
        params=int(cost.params()),
        latency_ms=latency_ms,
    )
