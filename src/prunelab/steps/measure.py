"""The figures of the full and of the final network, and those of every stage between them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from prunelab.distributed.ranks import from_rank_zero
from prunelab.evaluation import Target, other_load
from prunelab.records import Accuracy, BestEpoch, Metrics
from prunelab.records.deployment import Stage
from prunelab.steps.full import FullNetwork
from prunelab.steps.low_rank import Factorised
from prunelab.steps.quantisation import Quantised
from prunelab.steps.rounds import Pruned
from prunelab.steps.setup import Setup
from prunelab.steps.stages import Architecture, Latencies, times_on_target
from prunelab.structure import CostModel, analyze
from prunelab.training.divergence import require_finite


@dataclass(frozen=True)
class Figures:
    """Accuracy and cost of the full and of the final network, and the seconds of the measurement.

    ``validation`` is the accuracy of the final network on the validation images. ``other_load`` is the number of
    processor cores that other processes used during the timing, None if it is not known. ``stages``: the full network,
    and the network after each stage.
    """

    baseline: Metrics
    pruned: Metrics
    validation: Accuracy
    best_epoch: BestEpoch | None
    other_load: float | None
    seconds: float
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class _Timed:
    """The networks in the order of the stages: times in PyTorch, those on the target, and the target.

    ``target`` describes PyTorch on the machine of the run if nothing else was measured.
    """

    here: list[Latencies]
    there: list[Latencies]
    target: Target
    other_load: float | None


def measure(
    setup: Setup,
    full: FullNetwork,
    pruned: Pruned,
    factorised: Factorised | None = None,
    quantised: Quantised | None = None,
) -> Figures:
    """Accuracy on the test images, cost of the networks, and the time of a forward pass.

    Of a quantised network only the accuracies are those in its precision; cost and time are those of the network
    before.

    Raises:
        UserError: the weights or the outputs of the final network are not finite.
    """
    start = time.perf_counter()
    task = setup.task
    last = pruned if factorised is None else factorised
    require_finite(last.network, "recovery")
    networks = [full.network, pruned.network, *([] if factorised is None else [factorised.network])]
    costs = [full.graph.cost, *(analyze(each, task.example_input()).cost for each in networks[1:])]
    recovered = task.test_accuracy(pruned.network)
    accuracy = recovered if factorised is None else task.test_accuracy(factorised.network)
    validation = task.validation_accuracy(last.network)
    best_epoch = _best_epoch(setup, last, validation, accuracy)
    timed = from_rank_zero(lambda: _timed(setup, networks))
    forms = [Architecture(*each) for each in zip(networks, costs, timed.there, strict=True)]
    return Figures(
        baseline=_metrics(full.accuracy, costs[0], timed.here[0]),
        pruned=_metrics(accuracy if quantised is None else quantised.test, costs[-1], timed.here[-1]),
        validation=validation if quantised is None else quantised.validation,
        best_epoch=best_epoch,
        other_load=timed.other_load,
        seconds=time.perf_counter() - start,
        stages=(
            *(
                forms[place].stage(name, found, timed.target)
                for place, name, found in _stages(setup, full, pruned, factorised, recovered, accuracy)
            ),
            *(() if quantised is None else _with_costs(quantised.stages, costs[-1])),
        ),
    )


def _stages(
    setup: Setup,
    full: FullNetwork,
    pruned: Pruned,
    factorised: Factorised | None,
    recovered: Accuracy,
    final: Accuracy,
) -> Iterator[tuple[int, str, Accuracy]]:
    """Which network a stage has (0: full, 1: pruned, 2: factorised), its name and its accuracy."""
    yield 0, "full", full.accuracy
    yield 1, "pruned", pruned.after_pruning
    if pruned.after_calibration:
        last = pruned.after_calibration[-1]
        yield 1, "calibrated", Accuracy(last.top1, last.top5)
    if setup.recipe.rounds(setup.budget.keep)[-1].training is not None:
        yield 1, "recovered", recovered
    if factorised is not None:
        yield 2, "low rank", factorised.after
        if factorised.recovery_s is not None:
            yield 2, "low rank, recovered", final


def _with_costs(stages: Sequence[Stage], cost: CostModel) -> Iterator[Stage]:
    return (
        replace(
            each,
            flops=int(cost.flops()),
            params=int(cost.params()) if each.params is None else each.params,
        )
        for each in stages
    )


def _best_epoch(
    setup: Setup, last: Pruned | Factorised, validation: Accuracy, accuracy: Accuracy
) -> BestEpoch | None:
    """The accuracies of the best epoch; those of the last epoch are passed."""
    if last.best_epoch is None:
        return None
    if last.best is None:
        return BestEpoch(last.best_epoch, validation, accuracy)
    task = setup.task
    return BestEpoch(last.best_epoch, task.validation_accuracy(last.best), task.test_accuracy(last.best))


def _timed(setup: Setup, networks: Sequence[nn.Module]) -> _Timed:
    """The times of the networks in PyTorch; also on the target, if the settings of the run refer to one."""
    with other_load() as load:
        here = setup.task.latencies(*networks)
        if not setup.stages_on_target:
            target = Target(device=setup.task.machine.device.type, runtime="eager")
            return _Timed([*here], [*here], target, load.cores)
        target, there = times_on_target(setup, networks)
    return _Timed([*here], there, target, load.cores)


def _metrics(accuracy: Accuracy, cost: CostModel, latency_ms: Latencies) -> Metrics:
    return Metrics(
        top1=accuracy.top1,
        top5=accuracy.top5,
        flops=int(cost.flops()),
        macs=int(cost.macs()),
        params=int(cost.params()),
        latency_ms={batch: times.p50 for batch, times in latency_ms.items()},
    )
