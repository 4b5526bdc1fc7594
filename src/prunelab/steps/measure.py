"""The figures of the full and of the pruned network, side by side."""

from __future__ import annotations

import time
from dataclasses import dataclass

from prunelab.distributed.ranks import from_rank_zero
from prunelab.records import Accuracy, Metrics
from prunelab.steps.full import FullNetwork
from prunelab.steps.rounds import Pruned
from prunelab.steps.setup import Setup
from prunelab.structure import ChannelGraph, analyze
from prunelab.training.divergence import require_finite


@dataclass(frozen=True)
class Figures:
    """Accuracy and cost of both networks, and the seconds that the measurement took.

    ``validation`` is the accuracy of the pruned and recovered network on the validation images.
    """

    baseline: Metrics
    pruned: Metrics
    validation: Accuracy
    seconds: float


def measure(setup: Setup, full: FullNetwork, pruned: Pruned) -> Figures:
    """Accuracy on the test images, cost of the networks as they are, and the time of a forward pass.

    Raises:
        UserError: the weights or the outputs of the pruned network are not finite.
    """
    start = time.perf_counter()
    require_finite(pruned.network, "recovery")
    task = setup.task
    validation = task.validation_accuracy(pruned.network)
    accuracy = task.test_accuracy(pruned.network)
    graph = analyze(pruned.network, task.example_input())
    full_latency, pruned_latency = from_rank_zero(lambda: task.latencies(full.network, pruned.network))
    return Figures(
        baseline=_metrics(full.accuracy, full.graph, full_latency),
        pruned=_metrics(accuracy, graph, pruned_latency),
        validation=validation,
        seconds=time.perf_counter() - start,
    )


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
