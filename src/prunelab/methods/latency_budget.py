"""A latency budget is met by measurement: decide, build, compare with the full network, correct, decide again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from prunelab.distributed.ranks import from_rank_zero
from prunelab.evaluation.latency_rounds import Attempt, Words, meet
from prunelab.methods.allocation.feasibility import smallest_fraction
from prunelab.methods.allocation.step_search import cost_function, full_cost
from prunelab.records.latency import LatencySummary
from prunelab.structure import PruningPlan, apply

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.methods.method import PruningMethod


def decide(method: PruningMethod, context: PruningContext) -> tuple[PruningPlan, LatencySummary | None]:
    """The plan of a method for a context; under a latency budget one that meets it when it is measured.

    Returns:
        The plan, and the measurements (None for budgets of FLOPs or parameters).

    Raises:
        UserError: the budget cannot be reached, or it was not met (``evaluation.latency_rounds``).
    """
    if context.budget.resource != "latency":
        return method.decide(context), None
    assert context.latency is not None
    words = Words(
        budget=str(context.budget),
        network=context.name,
        reference="the full network's",
        smallest="the smallest network with these levels and min_keep",
        advice="Keep more, lower budget.min_keep, or add levels.",
    )
    smallest, decider = smallest_fraction(context), method.decider()
    return meet(
        context.latency, context.budget.keep, smallest, lambda aim: _attempt(decider, context, aim), words
    )


def _attempt(
    decider: Callable[[PruningContext], PruningPlan], context: PruningContext, aim: float
) -> Attempt[PruningPlan]:
    assert context.latency is not None
    latency, original = context.latency, context.budget.keep
    folder = context.folder
    if folder is not None and aim != original:  # the state of a search is for one budget
        folder = folder / f"latency-{aim:.4f}"
    plan = decider(replace(context, budget=context.budget.keeping(aim), folder=folder))
    cost = cost_function(context.graph, "latency")
    predicted = float(cost(plan)) / full_cost(context.reference or context.graph, "latency")
    found = from_rank_zero(lambda: latency.compare(apply(copy.deepcopy(context.model), plan)))
    latency.table.save()
    return Attempt(plan, aim, predicted, found)
