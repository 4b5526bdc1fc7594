"""Allocation as a knapsack: of all widths within the budget those that lose the least score.

The score that a group loses at a width, and what the width costs, form the items of a multiple-choice knapsack (HALP,
Shen et al., NeurIPS 2022, arXiv:2110.10811; Puzzle, Bercovich et al., 2024, arXiv:2411.19146). Costs may have steps, as
latencies do: a wider group that costs no more is always chosen.

What a width costs depends on the widths of the layers around it. So the knapsack is solved with the costs at the widths
of the last solution, again and again, and single steps are exchanged at the end, with exact costs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunelab.methods.allocation.budget import Resource
from prunelab.methods.allocation.candidate_widths import (
    Allocation,
    CandidateWidths,
    build_candidate_widths,
    normalised,
)
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.step_search import StepSearch, Widths, cost_function

if TYPE_CHECKING:
    from prunelab.structure import ChannelGraph

Array = NDArray[np.float64]

POINTS = 4000
"""The most partial solutions that are kept after each group. See ``pareto_choices``."""

MANY = 10
"""Of more than this multiple of POINTS solutions, the best of each interval are chosen before they are sorted."""

ROUNDS = 6
ENOUGH = 1e-3
"""The rounds end when the loss falls by less than this fraction."""

EXCHANGES = 200

BEYOND = 1.5
"""Solutions of up to this multiple of the budget are kept until their true cost is known."""


@dataclass(frozen=True)
class Choices:
    """Solutions of a knapsack, cheapest first; each one loses less than all cheaper ones.

    costs, losses: (solutions,).
    chosen: int array (solutions, groups), the number of the item that each group takes.
    """

    costs: Array
    losses: Array
    chosen: NDArray[np.int64]


def pareto_choices(
    costs: Sequence[Array], losses: Sequence[Array], limit: float, points: int = POINTS
) -> Choices:
    """All best solutions of: one item of each group, total cost at most ``limit``, least total loss.

    Dynamic programming over the groups. It is exact if no more than ``points`` partial solutions are worth keeping.
    Otherwise, of those in each interval of limit / points the one of least loss is kept, so that the solutions lose no
    more than the best ones for a limit that is smaller by groups / points of it.

    Args:
        costs, losses: for each group an array (items,); costs are 0 or more.

    Example:
        >>> found = pareto_choices([np.array([3.0, 1.0]), np.array([4.0, 2.0])], [np.array([0.0, 5.0])] * 2, 5.0)
        >>> found.costs.tolist(), found.losses.tolist(), found.chosen.tolist()
        ([3.0, 5.0], [10.0, 5.0], [[1, 1], [0, 1]])
    """
    total, lost = np.zeros(1), np.zeros(1)
    parents: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for cost, loss in zip(costs, losses, strict=True):
        all_costs = (total[:, None] + cost[None]).ravel()
        all_losses = (lost[:, None] + loss[None]).ravel()
        kept = _best(all_costs, all_losses, limit, points)
        total, lost = all_costs[kept], all_losses[kept]
        parents.append((kept // len(cost), kept % len(cost)))
    chosen = np.zeros((len(total), len(parents)), dtype=np.int64)
    places = np.arange(len(total))
    for group in range(len(parents) - 1, -1, -1):
        before, item = parents[group]
        chosen[:, group] = item[places]
        places = before[places]
    return Choices(total, lost, chosen)


def _best(costs: Array, losses: Array, limit: float, points: int) -> NDArray[np.int64]:
    """The solutions within ``limit`` that no other one beats in both, cheapest first, at most about ``points``."""
    within = np.flatnonzero(costs <= limit * (1 + 1e-12))
    interval = np.floor(costs[within] * (points / max(limit, 1e-300))).astype(np.int64)
    if len(within) > MANY * points:  # sorting them all would take most of the time
        least = np.full(points + 2, np.inf)
        np.minimum.at(least, interval, losses[within])
        chosen = losses[within] == least[interval]
        within, interval = within[chosen], interval[chosen]
    order = np.lexsort((losses[within], costs[within]))
    falling = losses[within][order]
    best_before = np.concatenate([[np.inf], np.minimum.accumulate(falling)[:-1]])
    order = order[falling < best_before]
    if len(order) > points:
        of_interval = interval[order]
        last = np.append(
            of_interval[1:] != of_interval[:-1], True
        )  # the costliest of an interval loses least
        order = order[last]
    return within[order]


def knapsack(
    graph: ChannelGraph,
    scores: Scores,
    resource: Resource,
    levels: Collection[str],
    allocation: Allocation,
    reference: ChannelGraph | None,
    target: float,
) -> tuple[list[CandidateWidths], Widths]:
    """The options, and the widths of cost at most ``target`` with the smallest loss that was found."""
    options = build_candidate_widths(graph, scores, levels, allocation, reference)
    problem = _Problem(graph, options, scores, allocation, resource, target)
    best = problem.filled(StepSearch(graph, options, resource).solve(target))
    widths, seen = best, {best.tobytes()}
    for _ in range(ROUNDS):
        widths = problem.solved_around(widths)
        gain = problem.loss(best) - problem.loss(widths)
        if gain > 0:
            best = widths
        if widths.tobytes() in seen or 0 <= gain < ENOUGH * problem.loss(best):
            break
        seen.add(widths.tobytes())
    return options, problem.exchanged(best)


class _Problem:
    """The losses and costs of the widths of all options, and the moves between solutions."""

    def __init__(
        self,
        graph: ChannelGraph,
        options: Sequence[CandidateWidths],
        scores: Scores,
        allocation: Allocation,
        resource: Resource,
        target: float,
    ) -> None:
        self._options = [option for option in options if len(option.widths) > 1]
        self._losses = losses_of(self._options, scores, allocation)
        self._cost = cost_function(graph, resource)
        self._groups = len(graph.groups)
        self._target = target

    def loss(self, widths: Widths) -> float:
        """What ``widths`` lose."""
        return float(
            sum(
                lost[self._rung(option, widths)]
                for option, lost in zip(self._options, self._losses, strict=True)
            )
        )

    def solved_around(self, widths: Widths) -> Widths:
        """The best widths within the target if each width cost what it costs beside ``widths``."""
        here = self._costs(widths[None])[0]
        items, smallest = [], here
        for option in self._options:
            rows = np.repeat(widths[None], len(option.widths), axis=0)
            rows[:, option.column] = option.widths
            changes = self._costs(rows) - here
            smallest += changes.min()
            items.append(changes - changes.min())
        if not self._options:
            return widths
        room = max(self._target - smallest, 0.0)
        found = pareto_choices(items, self._losses, BEYOND * room)
        fits, too_much = -1, len(found.costs)  # the true cost rises with the one that was assumed, nearly
        best = widths
        while too_much - fits > 1:
            middle = (fits + too_much) // 2
            candidate = self._widths(widths, found.chosen[middle])
            if self._costs(candidate[None])[0] <= self._target:
                fits, best = middle, candidate
            else:
                too_much = middle
        return self.filled(best)

    def filled(self, widths: Widths) -> Widths:
        """``widths`` with groups widened step by step as long as the target allows it: what costs least for its
        gain first, and so what costs nothing."""
        while True:
            rows, gains = self._wider(widths)
            costs = self._costs(rows) if len(rows) else np.empty(0)
            fitting = np.flatnonzero(costs <= self._target)
            if not len(fitting):
                return widths
            more = np.maximum(costs[fitting] - self._costs(widths[None])[0], 1e-12 * self._target)
            widths = rows[fitting[np.argmax(gains[fitting] / more)]]

    def exchanged(self, widths: Widths) -> Widths:
        """``widths`` after exchanges of one step down for one step up that lower the loss."""
        for _ in range(EXCHANGES):
            rows, gains = self._pairs(widths)
            better = np.flatnonzero(gains > 1e-12)
            better = better[np.argsort(-gains[better], kind="stable")]
            fitting = better[self._costs(rows[better]) <= self._target] if len(better) else better
            if not len(fitting):
                return widths
            widths = self.filled(rows[fitting[0]])
        return widths

    def _wider(self, widths: Widths) -> tuple[Widths, Array]:
        """All rows with one group one step wider, and how much less they lose."""
        rows, gains = [], []
        for option, lost in zip(self._options, self._losses, strict=True):
            rung = self._rung(option, widths)
            if rung > 0:
                row = widths.copy()
                row[option.column] = option.widths[rung - 1]
                rows.append(row)
                gains.append(lost[rung] - lost[rung - 1])
        return np.array(rows, dtype=np.int64).reshape(-1, len(widths)), np.array(gains)

    def _pairs(self, widths: Widths) -> tuple[Widths, Array]:
        """All rows with one group one step narrower and another one step wider, and how much less they lose."""
        rungs = [self._rung(option, widths) for option in self._options]
        down = [n for n, option in enumerate(self._options) if rungs[n] + 1 < len(option.widths)]
        up = [n for n in range(len(self._options)) if rungs[n] > 0]
        rows, gains = [], []
        for narrow in down:
            for wide in up:
                if narrow == wide:
                    continue
                row = widths.copy()
                row[self._options[narrow].column] = self._options[narrow].widths[rungs[narrow] + 1]
                row[self._options[wide].column] = self._options[wide].widths[rungs[wide] - 1]
                rows.append(row)
                more = self._losses[narrow][rungs[narrow] + 1] - self._losses[narrow][rungs[narrow]]
                gains.append(self._losses[wide][rungs[wide]] - self._losses[wide][rungs[wide] - 1] - more)
        return np.array(rows, dtype=np.int64).reshape(-1, len(widths)), np.array(gains)

    def _widths(self, widths: Widths, chosen: NDArray[np.int64]) -> Widths:
        row = widths.copy()
        for option, item in zip(self._options, chosen, strict=True):
            row[option.column] = option.widths[item]
        return row

    @staticmethod
    def _rung(option: CandidateWidths, widths: Widths) -> int:
        return int(np.flatnonzero(option.widths == widths[option.column])[0])

    def _costs(self, rows: Widths) -> Array:
        return np.asarray(self._cost(rows[:, : self._groups], rows[:, self._groups :]), dtype=np.float64)


def losses_of(options: Sequence[CandidateWidths], scores: Scores, allocation: Allocation) -> list[Array]:
    """For each option the sum of the (normalised) scores that are removed at each of its widths."""
    names = list(scores.blocks)
    blocks = normalised(np.array([scores.blocks[name] for name in names]), allocation.normalisation)
    of_block = dict(zip(names, blocks.tolist(), strict=True))
    found = []
    for option in options:
        if len(option.removal_order):
            values = normalised(np.asarray(scores.channels[option.name]), allocation.normalisation)
            sums = np.concatenate([[0.0], np.cumsum(values[option.removal_order])])
            found.append(sums[len(option.removal_order) - option.widths])
        else:
            found.append(np.array([0.0, of_block[option.name]]))
    return found
