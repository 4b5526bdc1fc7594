"""Allocation by score per resource: channels with a low ratio of score to cost are removed first.

With scores in units of the loss this is the Lagrangian solution for the smallest loss within the budget. The cost of a
channel depends on the widths of the adjacent layers, so the search is repeated with the costs at the widths that it
found.
"""

from __future__ import annotations

from collections.abc import Collection
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

_ROUNDS = 6


def per_cost(
    graph: ChannelGraph,
    scores: Scores,
    resource: Resource,
    levels: Collection[str],
    allocation: Allocation,
    reference: ChannelGraph | None,
    target: float,
) -> tuple[list[CandidateWidths], Widths]:
    """The options, and the widths of cost at most ``target`` of the round with the smallest lost score."""
    widths = np.array([group.size for group in graph.groups] + [1] * len(graph.blocks), dtype=np.int64)
    best: tuple[float, list[CandidateWidths], Widths] | None = None
    seen: set[bytes] = set()
    for _ in range(_ROUNDS):
        saved = marginal_costs(graph, resource, widths)
        options = build_candidate_widths(graph, scores, levels, allocation, reference, saved)
        widths = StepSearch(graph, options, resource).solve(target)
        lost = lost_score(options, scores, allocation, widths)
        if best is None or lost < best[0]:
            best = lost, options, widths
        if widths.tobytes() in seen:
            break
        seen.add(widths.tobytes())
    assert best is not None
    return best[1], best[2]


def marginal_costs(graph: ChannelGraph, resource: Resource, widths: Widths) -> NDArray[np.float64]:
    """The cost of one channel of each group, and of each block, at these widths: (groups + blocks,).

    Channels in a dropped block have the cost that they would have if the block were kept.
    """
    cost = cost_function(graph, resource)
    groups, blocks = len(graph.groups), len(graph.blocks)
    own = widths[:groups]
    changed = np.where(own > 1, own - 1, own + 1)
    states = np.repeat(own[None], groups, axis=0)
    states[np.arange(groups), np.arange(groups)] = changed
    here = float(np.asarray(cost(own[None], np.ones((1, blocks))))[0])
    of_groups = np.abs(here - np.asarray(cost(states, np.ones((groups, blocks)))))
    alive = 1 - np.eye(blocks, dtype=np.int64)
    of_blocks = (
        here - np.asarray(cost(np.repeat(own[None], blocks, axis=0), alive)) if blocks else np.zeros(0)
    )
    saved: NDArray[np.float64] = np.concatenate([of_groups, of_blocks])
    # A channel without a cost is never worth removing.
    return np.maximum(saved, 1e-9 * max(here, 1.0))


def lost_score(
    options: Collection[CandidateWidths], scores: Scores, allocation: Allocation, widths: Widths
) -> float:
    """The sum of the (normalised) scores of all channels and blocks that ``widths`` removes."""
    total = 0.0
    for option in options:
        width = int(widths[option.column])
        if option.name in scores.channels and len(option.removal_order):
            values = normalised(np.asarray(scores.channels[option.name]), allocation.normalisation)
            total += float(values[option.removal_order[: len(option.removal_order) - width]].sum())
        elif not width:
            total += float(scores.blocks[option.name])
    return total
