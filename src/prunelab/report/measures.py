"""The numbers that a report reads from each record, and their mean and standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prunelab.records.schema import Record

BATCH_SIZES = (1, 64)
"""The batch sizes at which forward times are compared."""


MOST_OTHER_LOAD = 0.5
"""Times that were measured while other processes used more than this mean number of cores are marked."""


def timed_under_load(record: Record) -> bool:
    """Whether other processes used the machine while forward passes were timed."""
    return (record.timings.other_load or 0.0) > MOST_OTHER_LOAD


def is_chance(record: Record, top1: float) -> bool:
    """Whether ``top1`` is at chance level on the test set of the record; false if the record does not describe it."""
    return record.test_set is not None and record.test_set.is_chance(top1)


@dataclass(frozen=True)
class Statistic:
    """Mean of ``count`` values and their sample standard deviation, None for a single value."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Statistic | None:
        """The statistic of the values that are not None; None if there are none."""
        known = [value for value in values if value is not None]
        if not known:
            return None
        deviation = statistics.stdev(known) if len(known) > 1 else None
        return cls(statistics.fmean(known), deviation, len(known))


@dataclass(frozen=True)
class Measure:
    """One number of a record; None if the record does not contain it (a batch size that was not timed)."""

    name: str
    read: Callable[[Record], float | None]


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return numerator / denominator if numerator is not None and denominator else None


def _difference(after: float | None, before: float | None) -> float | None:
    return after - before if after is not None and before is not None else None


def _forward_times(batch: int) -> tuple[Measure, ...]:
    def baseline(record: Record) -> float | None:
        return record.baseline.latency_ms.get(batch)

    def pruned(record: Record) -> float | None:
        return record.pruned.latency_ms.get(batch)

    return (
        Measure(f"baseline_forward_ms_batch_{batch}", baseline),
        Measure(f"forward_ms_batch_{batch}", pruned),
        Measure(f"speedup_batch_{batch}", lambda record: _ratio(baseline(record), pruned(record))),
    )


MEASURES: tuple[Measure, ...] = (
    Measure("baseline_top1", lambda record: record.baseline.top1),
    Measure("after_pruning_top1", lambda record: record.after_pruning.top1),
    Measure("top1", lambda record: record.pruned.top1),
    Measure("top1_change", lambda record: record.pruned.top1 - record.baseline.top1),
    Measure("baseline_top5", lambda record: record.baseline.top5),
    Measure("after_pruning_top5", lambda record: record.after_pruning.top5),
    Measure("top5", lambda record: record.pruned.top5),
    Measure("top5_change", lambda record: _difference(record.pruned.top5, record.baseline.top5)),
    Measure("baseline_flops", lambda record: record.baseline.flops),
    Measure("flops", lambda record: record.pruned.flops),
    Measure("flops_fraction", lambda record: _ratio(record.pruned.flops, record.baseline.flops)),
    Measure("flops_ratio", lambda record: _ratio(record.baseline.flops, record.pruned.flops)),
    Measure("baseline_macs", lambda record: record.baseline.macs),
    Measure("macs", lambda record: record.pruned.macs),
    Measure("macs_fraction", lambda record: _ratio(record.pruned.macs, record.baseline.macs)),
    Measure("baseline_params", lambda record: record.baseline.params),
    Measure("params", lambda record: record.pruned.params),
    Measure("params_fraction", lambda record: _ratio(record.pruned.params, record.baseline.params)),
    Measure("params_ratio", lambda record: _ratio(record.baseline.params, record.pruned.params)),
    *(measure for batch in BATCH_SIZES for measure in _forward_times(batch)),
    Measure("budget_reached", lambda record: record.budget.reached),
    Measure("score_s", lambda record: record.timings.score_s),
    Measure("recovery_s", lambda record: record.timings.recovery_s),
    Measure("total_s", lambda record: record.timings.total_s),
    Measure("masked_vs_pruned", lambda record: record.plan.masked_vs_pruned),
    Measure("best_epoch_top1", lambda record: record.best_epoch.test.top1 if record.best_epoch else None),
    Measure("best_epoch", lambda record: record.best_epoch.epoch if record.best_epoch else None),
    Measure("other_load", lambda record: record.timings.other_load),
    Measure(
        "calibrated_top1",
        lambda record: record.after_calibration[-1].top1 if record.after_calibration else None,
    ),
)
"""The measures in the order of the CSV columns. Accuracies, changes and fractions are fractions of 1; the names state
the units of times."""
