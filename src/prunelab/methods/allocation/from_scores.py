"""Allocation: from scores and a budget to a plan of kept channels and dropped blocks.

The width of every group falls in steps (``candidate_widths.py``). The steps of all groups are sorted by priority, and
the first ones are taken until the budget is met (``step_search.py``). Costs come from the cost model; no tensor is
touched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Allocation, build_candidate_widths
from prunelab.methods.allocation.feasibility import require_feasible
from prunelab.methods.allocation.knapsack import knapsack
from prunelab.methods.allocation.per_cost import per_cost
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.step_search import StepSearch, allowed_cost

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGraph, PruningPlan

SOLVED_TOGETHER = {"knapsack": knapsack, "per_cost": per_cost}
"""The rules that need costs for their decisions; the others sort steps by priority alone."""


def keep_best(context: PruningContext, scores: Scores) -> PruningPlan:
    """``allocate`` with the budget, levels and allocation of a context."""
    return allocate(
        context.graph,
        scores,
        context.budget,
        context.levels,
        context.allocation,
        context.name,
        context.reference,
    )


def allocate(
    graph: ChannelGraph,
    scores: Scores,
    budget: Budget,
    levels: Collection[str] = ("filter", "stage"),
    allocation: Allocation | None = None,
    network: str = "the network",
    reference: ChannelGraph | None = None,
) -> PruningPlan:
    """The plan that keeps the channels of highest score within a budget.

    The cost of the plan is at most ``budget.keep`` times the full cost. The difference is smaller than the cost of
    one channel of the group with the cheapest channels. The same scores give the same plan on every machine.

    Args:
        graph: the network that is pruned.
        scores: those of its groups and blocks; without a score these are not pruned.
        budget: the fraction of ``reference`` to keep.
        levels: what may be removed, of "filter", "stage" and "block". Groups with ``exact = False`` (their
            channels pass a normalisation over channels, so that pruned and masked network differ) are pruned
            like all others.
        allocation: how the budget is distributed over the groups.
        network: its name, for messages.
        reference: the full network, if ``graph`` is that of a network that was pruned before.

    Raises:
        UserError: nothing may be removed at these levels, or the budget cannot be reached.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> scores = prunelab.Scores({"0": np.arange(8.0)})
        >>> prunelab.allocate(structure, scores, prunelab.Budget(flops=0.51)).kept["0"]
        (4, 5, 6, 7)
    """
    allocation = allocation or Allocation()
    require_feasible(graph, budget, levels, allocation, network, reference, scores)
    target = allowed_cost(reference or graph, budget)
    if (solve := SOLVED_TOGETHER.get(allocation.rule)) is not None:
        options, widths = solve(graph, scores, budget.resource, levels, allocation, reference, target)
    else:
        options = build_candidate_widths(graph, scores, levels, allocation, reference)
        widths = StepSearch(graph, options, budget.resource).solve(target)

    n_groups = len(graph.groups)
    kept: dict[str, Sequence[int]] = {
        option.name: option.kept(widths[option.column]) for option in options if option.column < n_groups
    }
    for group in graph.groups:
        if scores.members and group.name in kept:
            kept |= scores.of_members(group, len(kept[group.name]))
    dropped = [option.name for option in options if option.column >= n_groups and not widths[option.column]]
    return graph.plan(kept, dropped)
