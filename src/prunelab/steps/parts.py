"""Pruning part by part in forward order: the groups that a round may prune, and the budget that it must meet."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunelab.errors import UserError
from prunelab.methods import Budget, PruningMethod, Scores, allocate
from prunelab.methods.allocation.step_search import cost_function, full_cost
from prunelab.structure import ChannelGraph


@dataclass(frozen=True)
class Portion:
    """The work of one round: a budget for the whole network, and the groups that the round does not prune."""

    budget: Budget
    exclude: frozenset[str]


def portion(full: ChannelGraph, method: PruningMethod, budget: Budget, part: tuple[int, int]) -> Portion:
    """The work of part r of n, given as ``part`` = (r, n): the groups of that part are pruned to their final width.

    The final width of a group is the one that ``budget`` gives it under uniform allocation. The budget of the round is
    the cost of the network in which the groups of the first r parts have their final width and all others are
    unpruned.

    Raises:
        UserError: the final widths depend on later rounds (any other allocation), or there are more parts than groups.
    """
    number, parts = part
    if parts == 1:
        return Portion(budget, frozenset())
    names = [group.name for group in full.at(method.levels) if group.name not in method.exclude]
    _require_parts(method, names, parts)
    scores = Scores({name: np.ones(full.group(name).size) for name in names})
    final = allocate(full, scores, budget, method.levels, method.allocation)
    slices = [set(each.tolist()) for each in np.array_split(names, parts)]
    done = set().union(*slices[:number])
    cost = cost_function(full, budget.resource)(full.plan({name: final.kept[name] for name in done}))
    # Half an operation (or 1e-9 of a latency) is added: a fraction rounded down would cost another channel.
    more = 1e-9 * float(cost) if budget.resource == "latency" else 0.5
    keep = min(1.0, (float(cost) + more) / full_cost(full, budget.resource))
    others = {group.name for group in full.groups} - slices[number - 1]
    return Portion(budget.keeping(keep), frozenset(others))


def _require_parts(method: PruningMethod, names: list[str], parts: int) -> None:
    if method.allocation.rule != "uniform" or "block" in method.levels:
        raise UserError(
            "Pruning from front to back removes the same fraction of every group: set budget.allocation=uniform and "
            "remove block from levels, or choose recipe=iterative."
        )
    if parts > len(names):
        raise UserError(
            f"recipe.parts={parts} is more than the {len(names)} groups that can be pruned with "
            f"levels=[{','.join(method.levels)}]. Use fewer parts."
        )
