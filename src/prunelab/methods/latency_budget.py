"""A latency budget is met by measurement: decide, build, compare with the full network, correct, decide again."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunelab.distributed.messages import info
from prunelab.distributed.ranks import from_rank_zero
from prunelab.errors import UserError
from prunelab.evaluation.latency_target import Comparison
from prunelab.methods.allocation.feasibility import smallest_fraction
from prunelab.methods.allocation.step_search import cost_function, full_cost
from prunelab.records.latency import LatencyRound, LatencySummary
from prunelab.structure import PruningPlan, apply

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.methods.method import PruningMethod

ROUNDS = 3
"""The most networks that are built and measured for one decision."""

TOLERANCE = 0.03
"""A budget is met if the measured latency is at most this fraction above it."""


@dataclass(frozen=True)
class _Attempt:
    plan: PruningPlan
    aim: float
    predicted: float
    found: Comparison


def decide(method: PruningMethod, context: PruningContext) -> tuple[PruningPlan, LatencySummary | None]:
    """The plan of a method for a context; under a latency budget one that meets it when it is measured.

    The first round has the given budget. The budget of each further round is corrected by the measured latencies of the
    earlier ones. There are at most ``ROUNDS``.

    Returns:
        The plan, and the measurements (None for budgets of FLOPs or parameters).

    Raises:
        UserError: the budget cannot be reached, or it was not met within ``TOLERANCE``.
    """
    if context.budget.resource != "latency":
        return method.decide(context), None
    attempts: list[_Attempt] = []
    asked, smallest = context.budget.keep, smallest_fraction(context)
    aim = asked
    for number in range(1, ROUNDS + 1):
        attempts.append(_attempt(method, context, aim))
        info(_progress(number, asked, attempts[-1]))
        if abs(attempts[-1].found.ratio / asked - 1) <= TOLERANCE:
            break
        aim = max(_next_aim(attempts, asked), smallest)
        if _is_known(aim, attempts):
            break
    return _chosen(context, attempts, smallest)


def _next_aim(attempts: Sequence[_Attempt], asked: float) -> float:
    """The corrected budget. If it was tried before and all networks were too slow, because measurements vary, it is a
    smaller one."""
    aim = corrected([(each.predicted, each.found.ratio) for each in attempts], asked)
    if _is_known(aim, attempts) and all(each.found.ratio > asked * (1 + TOLERANCE) for each in attempts):
        return min(each.aim * asked / each.found.ratio for each in attempts)
    return aim


def _is_known(aim: float, attempts: Sequence[_Attempt]) -> bool:
    return any(abs(aim / each.aim - 1) < 1e-3 for each in attempts)


def corrected(points: Sequence[tuple[float, float]], asked: float) -> float:
    """The predicted latency at which ``asked`` should be measured: on the line through the nearest known points.

    Args:
        points: predicted and measured latency of networks, as fractions of the full one, whose point is (1, 1).
        asked: a fraction, in (0, 1].

    Example:
        >>> round(corrected([(0.5, 0.6)], asked=0.4), 3)  # the line through (1, 1) and (0.5, 0.6)
        0.25
        >>> round(corrected([(0.5, 0.6), (0.3, 0.3)], asked=0.4), 3)
        0.367
    """
    known = sorted({*points, (1.0, 1.0)}, key=lambda each: each[1])
    above = next((number for number, each in enumerate(known) if each[1] >= asked), len(known) - 1)
    low, high = known[max(above - 1, 0)], known[max(above, 1)]
    if above == 0:  # below all measurements: the line from the full network
        low, high = known[0], known[-1]
    if high[1] - low[1] < 1e-6:
        return max(1e-3, low[0] * asked / low[1])
    slope = (high[0] - low[0]) / (high[1] - low[1])
    return min(1.0, max(1e-3, low[0] + slope * (asked - low[1])))


def _attempt(method: PruningMethod, context: PruningContext, aim: float) -> _Attempt:
    assert context.latency is not None
    latency, original = context.latency, context.budget.keep
    folder = context.folder
    if folder is not None and aim != original:  # the state of a search is for one budget
        folder = folder / f"latency-{aim:.4f}"
    aiming = replace(context, budget=context.budget.keeping(aim), folder=folder)
    plan = method.decide(aiming)
    cost = cost_function(context.graph, "latency")
    predicted = float(cost(plan)) / full_cost(context.reference or context.graph, "latency")
    found = from_rank_zero(lambda: latency.compare(apply(copy.deepcopy(context.model), plan)))
    latency.table.save()
    return _Attempt(plan, aim, predicted, found)


def _chosen(
    context: PruningContext, attempts: Sequence[_Attempt], smallest: float
) -> tuple[PruningPlan, LatencySummary]:
    """The attempt with the highest latency within the budget."""
    assert context.latency is not None
    latency, asked = context.latency, context.budget.keep
    met = [each for each in attempts if each.found.ratio <= asked * (1 + TOLERANCE)]
    if not met:
        best = min(attempts, key=lambda each: each.found.ratio).found
        raise UserError(
            f"{context.budget} was not met: the smallest latency that was measured for {context.name} is "
            f"{best.ratio:.3f} of the full network's ({best.pruned.p50_ms:.3g} ms of {best.full.p50_ms:.3g} ms; "
            f"{latency.target}), in {len(attempts)} rounds. The table predicts {smallest:.3f} for the smallest network "
            "with these levels and min_keep. Keep more, lower budget.min_keep, or add levels."
        )
    best_attempt = max(met, key=lambda each: each.found.ratio)
    found = best_attempt.found
    return best_attempt.plan, LatencySummary(
        asked=asked,
        predicted=best_attempt.predicted,
        measured=found.ratio,
        turns=found.turns,
        full=found.full,
        pruned=found.pruned,
        rounds=tuple(LatencyRound(each.aim, each.predicted, each.found.ratio) for each in attempts),
        target=latency.target.settings(),
        machine=latency.target.machine(),
    )


def _progress(number: int, asked: float, attempt: _Attempt) -> str:
    found = attempt.found
    return (
        f"Latency, round {number}: asked {asked:.1%}, predicted {attempt.predicted:.1%}, measured {found.ratio:.1%} "
        f"({found.full.p50_ms:.3g} ms -> {found.pruned.p50_ms:.3g} ms)."
    )
