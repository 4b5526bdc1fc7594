"""The steps down of all ladders in one order, and the search for the ones that a budget asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from prunelab.methods.budget import Budget, Resource
from prunelab.methods.ladders import Ladder

if TYPE_CHECKING:
    from prunelab.structure import ChannelGraph


def full_cost(graph: ChannelGraph, resource: Resource) -> float:
    """What the whole network costs: FLOPs of one image, or parameters."""
    return float(_cost_function(graph, resource)())


def allowed_cost(graph: ChannelGraph, budget: Budget) -> float:
    """The most that a pruned network may cost."""
    return budget.keep * full_cost(graph, budget.resource)


class StepSearch:
    """All steps of all ladders in the order in which they are taken, and what the network then costs.

    The state of the network is a vector of widths: one per group, then one per block (1 alive, 0 dropped).
    """

    def __init__(self, graph: ChannelGraph, ladders: Sequence[Ladder], resource: Resource) -> None:
        self._ladders = {ladder.column: ladder for ladder in ladders}
        self._n_groups = len(graph.groups)
        self._cost = _cost_function(graph, resource)
        self._full = np.array(
            [group.size for group in graph.groups] + [1] * len(graph.blocks), dtype=np.int64
        )
        nothing: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        priorities = np.concatenate(nothing + [ladder.priorities for ladder in ladders])
        columns = np.concatenate(
            nothing + [np.full(len(ladder.priorities), ladder.column) for ladder in ladders]
        )
        widths = np.concatenate(nothing + [ladder.widths[1:] for ladder in ladders])
        order = np.argsort(
            priorities, kind="stable"
        )  # ties: the order of the groups, then the order within one
        self._columns, self._widths = columns[order], widths[order]

    def smallest_cost(self) -> float:
        """The cost once every step is taken."""
        return self._cost_of(self._widths_after(len(self._columns)))

    def shortest_prefix(self, target: float) -> int:
        """The smallest number of steps after which the cost is at most ``target`` (no step raises it)."""
        too_few, enough = -1, len(self._columns)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._cost_of(self._widths_after(middle)) <= target:
                enough = middle
            else:
                too_few = middle
        return enough

    def fill(self, steps: int, target: float) -> np.ndarray:
        """The widths after ``steps`` steps, once every step that fits was given back, the last taken first.

        A step that does not fit now never will, as costs only rise from here. A step that costs nothing (it
        lies in a dropped block) waits: it matters only if the block comes back.
        """
        widths = self._widths_after(steps)
        cost = self._cost_of(widths)
        taken = {column: np.flatnonzero(self._columns[:steps] == column).tolist() for column in self._ladders}
        while open_columns := [column for column, positions in taken.items() if positions]:
            candidates = np.repeat(widths[None], len(open_columns), axis=0)
            for candidate, column in zip(candidates, open_columns, strict=True):
                candidate[column] = self._ladders[column].widths[len(taken[column]) - 1]
            costs = self._costs(candidates)
            for column, candidate_cost in zip(open_columns, costs, strict=True):
                if candidate_cost > target:
                    taken[column] = []
            fitting = [row for row in range(len(costs)) if cost < costs[row] <= target]
            if not fitting:
                break
            last = max(fitting, key=lambda row: taken[open_columns[row]][-1])
            taken[open_columns[last]].pop()
            widths, cost = candidates[last], float(costs[last])
        return widths

    def _widths_after(self, steps: int) -> np.ndarray:
        widths = self._full.copy()
        np.minimum.at(widths, self._columns[:steps], self._widths[:steps])
        return widths

    def _cost_of(self, widths: np.ndarray) -> float:
        return float(self._costs(widths[None])[0])

    def _costs(self, widths: np.ndarray) -> np.ndarray:
        """The cost (B,) of every row of widths (B, groups + blocks)."""
        return self._cost(widths[:, : self._n_groups], widths[:, self._n_groups :])


def _cost_function(graph: ChannelGraph, resource: Resource) -> Callable[..., Any]:
    return graph.cost.flops if resource == "flops" else graph.cost.params
