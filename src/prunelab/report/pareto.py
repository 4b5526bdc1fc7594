"""The Pareto fronts of a table: accuracy against each cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prunelab.report.measures import BATCH_SIZES

COSTS: Mapping[str, str] = {
    "flops": "baseline_flops",
    "params": "baseline_params",
    **{f"forward_ms_batch_{batch}": f"baseline_forward_ms_batch_{batch}" for batch in BATCH_SIZES},
}
"""The measure of each cost, and that of the full network."""

TIMES = frozenset(f"forward_ms_batch_{batch}" for batch in BATCH_SIZES)
"""The costs that depend on the machine."""

SAME_COST = 0.01
"""Costs that differ by at most this fraction count as the same, because a budget is met only up to one channel."""

Point = tuple[float, float]
"""A cost and a top-1 accuracy."""


def on_front(point: Point, others: Sequence[Point]) -> bool:
    """Whether no other point dominates it, that is, has at least its accuracy at the same or a lower cost and is better
    in one of the two."""
    return not any(_beats(other, point) for other in others)


def _beats(one: Point, other: Point) -> bool:
    (cost, top1), (other_cost, other_top1) = one, other
    no_dearer, cheaper = cost <= other_cost * (1 + SAME_COST), cost < other_cost * (1 - SAME_COST)
    return no_dearer and top1 >= other_top1 and (cheaper or top1 > other_top1)
