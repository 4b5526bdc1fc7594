"""Allocation by score per resource, on a graph whose costs are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prunelab.methods import Allocation, Budget, Scores, allocate

PER_COST = Allocation("per_cost", normalisation="none", min_keep=0.0)


def weighted(toy_graph: Callable[..., Any], sizes: tuple[int, ...], costs: tuple[float, ...]) -> Any:
    """A channel of group i costs ``costs[i]``, independent of the others."""
    graph = toy_graph(sizes)
    price = np.array(costs)
    graph.cost.flops = lambda rows=None, alive=None: (
        np.sum(price * sizes) if rows is None else np.asarray(rows) @ price
    )
    return graph


def test_of_equal_scores_the_costly_channels_go(toy_graph: Callable[..., Any]) -> None:
    graph = weighted(toy_graph, (4, 4), (1.0, 9.0))
    scores = Scores({"g0": np.array([1.0, 2, 3, 4]), "g1": np.array([1.0, 2, 3, 4])})
    plan = allocate(graph, scores, Budget(flops=13 / 40), allocation=PER_COST)
    assert plan.kept == {"g0": (0, 1, 2, 3), "g1": (3,)}
    plan = allocate(graph, scores, Budget(flops=0.5), allocation=Allocation("global", "none", 0.0))
    assert plan.kept == {"g0": (2, 3), "g1": (2, 3)}


def test_the_ratio_of_score_and_cost_decides(toy_graph: Callable[..., Any]) -> None:
    # per cost: g0 2, 3, 4, 5; g1 1, 1.5, 2.5, 6
    graph = weighted(toy_graph, (4, 4), (1.0, 2.0))
    scores = Scores({"g0": np.array([2.0, 3, 4, 5]), "g1": np.array([2.0, 3, 5, 12])})
    plan = allocate(graph, scores, Budget(flops=7 / 12), allocation=PER_COST)
    assert plan.kept == {"g0": (1, 2, 3), "g1": (2, 3)}  # 12 - 2 - 2 - 1 = 7


def test_costs_are_those_at_the_widths_that_are_found(toy_graph: Callable[..., Any]) -> None:
    """The cost of a layer is the product of its widths: the cost of a channel is the width of the other side."""
    graph = toy_graph((8, 8))

    def flops(rows: Any = None, alive: Any = None) -> Any:
        return 64.0 if rows is None else np.prod(np.asarray(rows, dtype=float), axis=1)

    graph.cost.flops = flops
    scores = {"g0": np.arange(1.0, 9.0), "g1": np.full(8, 100.0)}
    plan = allocate(graph, Scores(scores), Budget(flops=0.5), allocation=PER_COST)
    assert [len(kept) for kept in plan.kept.values()] == [4, 8]


def test_the_rule_is_among_those_offered() -> None:
    from prunelab.errors import UserError

    with pytest.raises(UserError, match=r"per_cots.*per_cost"):
        Allocation("per_cots")  # type: ignore[arg-type]
