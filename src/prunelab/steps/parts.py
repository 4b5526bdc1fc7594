"""Pruning a network part by part, front to back: which groups a round may touch, and what it has to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prunelab.errors import UserError
from prunelab.methods import Budget, PruningMethod, Scores, allocate
from prunelab.methods.allocation.step_search import cost_function, full_cost
from prunelab.structure import ChannelGraph


@dataclass(frozen=True)
class Portion:
    """What one round is about: a budget of the whole network, and the groups that the round leaves alone."""

    budget: Budget
    exclude: frozenset[str]


def portion(full: ChannelGraph, method: PruningMethod, budget: Budget, part: tuple[int, int]) -> Portion:
    """The ``part`` (r, n) of the work: the r-th of n parts of the groups of ``full`` gets its final width.

    The final width of every group is the one that ``budget`` gives it under uniform allocation. The budget of the
    round is what the network costs when the groups of the first r parts have theirs and all others are whole.

    Raises:
        UserError: widths cannot be known part by part, or there are more parts than groups.
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
    # Half an operation more, lest the rounding of the fraction takes another channel.
    keep = min(1.0, (float(cost) + 0.5) / full_cost(full, budget.resource))
    others = {group.name for group in full.groups} - slices[number - 1]
    return Portion(replace(budget, **{budget.resource: keep}), frozenset(others))


def _require_parts(method: PruningMethod, names: list[str], parts: int) -> None:
    if method.allocation.rule != "uniform" or "block" in method.levels:
        raise UserError(
            "A network is pruned front to back with the same fraction of every group: set "
            "budget.allocation=uniform and leave block out of levels, or choose recipe=iterative."
        )
    if parts > len(names):
        raise UserError(
            f"recipe.parts={parts}, but with levels [{', '.join(method.levels)}] there are {len(names)} groups to "
            "prune. Use fewer parts."
        )
