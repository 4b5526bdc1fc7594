"""Feasibility: whether a budget can be met, checked before any image is read. The error names what to change."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prunelab.errors import UserError
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, build_candidate_widths
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.step_search import StepSearch, allowed_cost, full_cost
from prunelab.structure import LEVELS

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGraph


def require_prunable(graph: ChannelGraph, levels: Collection[str], network: str) -> None:
    """Check that a network has channels or blocks that may be removed at these levels.

    Raises:
        UserError: nothing may be removed; the message names other levels that have some, or the frozen groups and the
            reasons.
    """
    present = _levels_of(graph)
    if any(level in present for level in levels):
        return
    message = f"Nothing of {network} can be removed with levels {_listed(levels)}."
    if present:
        raise UserError(
            f"{message} Channels or blocks can be removed at level {' and '.join(present)}: add it to levels."
        )
    raise UserError(f"{message} {_why_frozen(graph)}")


def require_within_reach(context: PruningContext) -> None:
    """``require_feasible`` with the budget, levels and allocation of a context."""
    require_feasible(
        context.graph,
        context.budget,
        context.levels,
        context.allocation,
        context.name,
        context.reference,
        exclude=context.exclude,
    )


def require_feasible(
    graph: ChannelGraph,
    budget: Budget,
    levels: Collection[str],
    allocation: Allocation,
    network: str = "the network",
    reference: ChannelGraph | None = None,
    scores: Scores | None = None,
    exclude: Collection[str] = (),
) -> None:
    """Check that a budget can be met.

    Only the groups and blocks that have ``scores`` may be pruned; without scores all except those in ``exclude``.

    Raises:
        UserError: nothing may be removed, or the budget cannot be reached; the message names the smallest one that can
            be met and what to change.
    """
    require_prunable(graph, levels, network)
    prunable = scores or _equal_scores(graph, exclude)

    def smallest_cost(allocation: Allocation) -> float:
        options = build_candidate_widths(graph, prunable, levels, allocation, reference)
        return StepSearch(graph, options, budget.resource).smallest_cost()

    smallest = smallest_cost(allocation)
    if smallest <= allowed_cost(reference or graph, budget):
        return
    advice = []
    unused = [repr(level) for level in _levels_of(graph) if level not in levels]
    if unused:
        advice.append(f"add {' or '.join(unused)} to levels")
    if smallest_cost(replace(allocation, min_keep=0.0)) < smallest:
        advice.append(f"lower the minimum keep ratio (budget.min_keep={allocation.min_keep:g})")
    if smallest_cost(replace(allocation, divisor=1)) < smallest:
        advice.append(f"lower the divisor (budget.divisor={allocation.divisor})")
    excluded = [group.name for group in graph.at(levels) if group.name in exclude]
    if excluded:
        advice.append(f"remove names from exclude ({_listed(excluded)})")
    unscored = [
        group.name
        for group in graph.at(levels)
        if group.name not in prunable.channels and group.name not in exclude
    ]
    if unscored:
        advice.append(
            f"choose a criterion that scores all groups ({len(unscored)} have no score and are not pruned)"
        )
    reachable = _rounded_up(smallest / full_cost(reference or graph, budget.resource))
    raise UserError(
        f"{budget} cannot be reached: the smallest for {network} with levels {_listed(levels)} "
        f"is {reachable:g}; {', or '.join(advice or ['keep more'])}."
    )


def smallest_fraction(context: PruningContext) -> float:
    """The smallest fraction of the budget's resource that the levels and the allocation of a context can reach."""
    graph, resource = context.graph, context.budget.resource
    scores = _equal_scores(graph, context.exclude)
    options = build_candidate_widths(graph, scores, context.levels, context.allocation, context.reference)
    smallest = StepSearch(graph, options, resource).smallest_cost()
    return smallest / full_cost(context.reference or graph, resource)


def _equal_scores(graph: ChannelGraph, exclude: Collection[str]) -> Scores:
    """Scores with which everything but the groups in ``exclude`` can be pruned."""
    return Scores(
        channels={group.name: np.ones(group.size) for group in graph.groups if group.name not in exclude},
        blocks={block.name: 1.0 for block in graph.blocks},
    )


def _levels_of(graph: ChannelGraph) -> list[str]:
    present = {group.level for group in graph.groups} | ({"block"} if graph.blocks else set())
    return [level for level in LEVELS if level in present]


def _why_frozen(graph: ChannelGraph, most: int = 8) -> str:
    if not graph.frozen:
        return "It has no layer with channels that could be removed."
    reasons = [f"{group.name} ({group.size} channels): {group.frozen}" for group in graph.frozen[:most]]
    more = f"; and {len(graph.frozen) - most} more" if len(graph.frozen) > most else ""
    return f"All its channels are frozen. {'; '.join(reasons)}{more}."


def _listed(levels: Collection[str]) -> str:
    return f"[{', '.join(levels)}]"


def _rounded_up(fraction: float) -> float:
    """At least two digits, rounded up, so that this budget can be met."""
    digits = max(3, 1 - math.floor(math.log10(fraction)))
    return min(1.0, math.ceil(fraction * 10**digits) / 10**digits)
