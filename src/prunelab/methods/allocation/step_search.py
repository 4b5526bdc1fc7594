"""StepSearch: steps from one width to the next smaller one, in order of priority, until a budget is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from numpy.typing import NDArray

from prunelab.errors import UserError, nearest
from prunelab.methods.allocation.budget import Budget, Resource
from prunelab.methods.allocation.candidate_widths import CandidateWidths

if TYPE_CHECKING:
    from prunelab.structure import ChannelGraph

Widths = NDArray[np.int64]
"""State of a network: the width of each group, then of each block (1 alive, 0 dropped)."""


def full_cost(graph: ChannelGraph, resource: Resource) -> float:
    """The cost of the full network in a resource: FLOPs of one image, parameters, or latency."""
    return float(cost_function(graph, resource)())


def allowed_cost(graph: ChannelGraph, budget: Budget) -> float:
    """The largest cost that a pruned network may have."""
    return budget.keep * full_cost(graph, budget.resource)


def cost_function(graph: ChannelGraph, resource: Resource) -> Callable[..., Any]:
    """The function of the cost model for a resource; its arguments are none, a plan, or widths and alive blocks.

    Raises:
        UserError: an unknown resource, or one for which the cost model has no figures.
    """
    if resource not in get_args(Resource):
        raise UserError(f"budget.{resource}: no such resource. {nearest(str(resource), get_args(Resource))}")
    if resource not in graph.cost.resources:
        raise UserError(
            f"budget.{resource} needs measured latencies in the cost model, which has none: take the graph from "
            "method.context(...).graph, or LatencyModel.attach."
        )
    return graph.cost.function(resource)


@dataclass(frozen=True)
class _Steps:
    """Steps in order of priority: step i reduces column ``columns[i]`` to ``widths[i]``."""

    columns: NDArray[np.int64]
    widths: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.columns)

    def without(self, step: int) -> _Steps:
        """The same steps without this one and the later ones of its group."""
        later = (self.columns == self.columns[step]) & (np.arange(len(self)) >= step)
        return _Steps(self.columns[~later], self.widths[~later])


class StepSearch:
    """Search that meets a budget by taking the steps of all groups in the order of their priorities."""

    def __init__(self, graph: ChannelGraph, options: Sequence[CandidateWidths], resource: Resource) -> None:
        self._ladders = {option.column: option for option in options}
        self._cost = cost_function(graph, resource)
        self._n_groups = len(graph.groups)
        self._full = np.array(
            [group.size for group in graph.groups] + [1] * len(graph.blocks), dtype=np.int64
        )
        nothing: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
        priorities = np.concatenate(nothing + [option.priorities for option in options])
        columns = np.concatenate(
            nothing + [np.full(len(option.priorities), option.column) for option in options]
        )
        widths = np.concatenate(nothing + [option.widths[1:] for option in options])
        # A stable sort: ties are taken in the order of the groups, then in the order within a group.
        order = np.argsort(priorities, kind="stable")
        self._steps = _Steps(columns[order], widths[order])

    def smallest_cost(self) -> float:
        """The cost after all steps."""
        return self._cost_after(self._steps, len(self._steps))

    def solve(self, target: float) -> Widths:
        """The widths with a cost of at most ``target``, which is less than the cost of the cheapest step below it.

        The smallest sufficient number of steps is taken; then steps are reverted while the cost stays within the
        target. If the difference is still larger than the cheapest step, the last step was too coarse (a block, a
        channel of an expensive group): it is left out, and the next ones in the order replace it. If no steps remain,
        the closest widths that were found are returned.
        """
        steps, best, smallest_gap = self._steps, self._full, float("inf")
        while self._cost_after(steps, len(steps)) <= target:
            count = self._shortest_run(steps, target)
            widths = self._revert(steps, count, target)
            gap = target - self._costs(widths[None])[0]
            if gap < smallest_gap:
                best, smallest_gap = widths, gap
            if count == 0 or gap < self._finest_step(widths):
                break
            steps = steps.without(count - 1)
        return best

    def _shortest_run(self, steps: _Steps, target: float) -> int:
        """The smallest number of steps after which the cost is at most ``target`` (no step raises it)."""
        too_few, enough = -1, len(steps)
        while enough - too_few > 1:
            middle = (too_few + enough) // 2
            if self._cost_after(steps, middle) <= target:
                enough = middle
            else:
                too_few = middle
        return enough

    def _revert(self, steps: _Steps, count: int, target: float) -> Widths:
        """The widths after ``count`` steps, with every step reverted that the target allows, the last one first.

        A step that cannot be reverted now cannot be later, since costs only rise. A step that costs nothing (inside a
        dropped block) is kept for later: it has a cost once the block is restored.
        """
        widths = self._widths_after(steps, count)
        cost = self._costs(widths[None])[0]
        taken = {column: np.flatnonzero(steps.columns[:count] == column).tolist() for column in self._ladders}
        while columns := [column for column, positions in taken.items() if positions]:
            before = [self._ladders[column].widths[len(taken[column]) - 1] for column in columns]
            candidates = self._changed(widths, columns, before)
            costs = self._costs(candidates)
            taken |= {column: [] for column, found in zip(columns, costs, strict=True) if found > target}
            fitting = [row for row in range(len(columns)) if cost < costs[row] <= target]
            if not fitting:
                break
            last = max(fitting, key=lambda row: taken[columns[row]][-1])
            taken[columns[last]].pop()
            widths, cost = candidates[last], costs[last]
        return widths

    def _finest_step(self, widths: Widths) -> float:
        """The smallest cost of a single step from these widths: up, or down from the full width."""
        columns, neighbours = [], []
        for column, option in self._ladders.items():
            if len(option.widths) > 1:
                rung = int(np.flatnonzero(option.widths == widths[column])[0])
                columns.append(column)
                neighbours.append(option.widths[rung - 1 if rung > 0 else 1])
        changes = np.abs(self._costs(self._changed(widths, columns, neighbours)) - self._costs(widths[None]))
        return float(changes[changes > 0].min(initial=np.inf))

    def _changed(self, widths: Widths, columns: Sequence[int], values: Sequence[int]) -> Widths:
        """One row for each column: ``widths`` with that column changed."""
        rows = np.repeat(widths[None], len(columns), axis=0)
        rows[np.arange(len(columns)), columns] = values
        return rows

    def _widths_after(self, steps: _Steps, count: int) -> Widths:
        widths = self._full.copy()
        np.minimum.at(widths, steps.columns[:count], steps.widths[:count])
        return widths

    def _cost_after(self, steps: _Steps, count: int) -> float:
        return float(self._costs(self._widths_after(steps, count)[None])[0])

    def _costs(self, states: Widths) -> NDArray[np.float64]:
        """The cost (B,) of every row of states (B, groups + blocks)."""
        costs = self._cost(states[:, : self._n_groups], states[:, self._n_groups :])
        return np.asarray(costs, dtype=np.float64)
