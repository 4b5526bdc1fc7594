"""Rows of widths: rounding, allowed widths, costs and scaling to a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from prunelab.methods import Budget, PruningContext, Scores
from prunelab.methods.allocation.candidate_widths import Allocation
from prunelab.methods.search.widths import WidthSpace


def space(graph: Any, keep: float = 0.5, **settings: Any) -> WidthSpace:
    context = PruningContext(None, graph, Budget(flops=keep), ("filter",), Allocation(**settings))  # type: ignore[arg-type]
    return WidthSpace.of(context, Scores({group.name: np.arange(group.size) for group in graph.groups}))


@pytest.fixture
def graph(toy_graph: Callable[..., Any]) -> Any:
    """A chain of 10 and 8 channels, and a stage whose level is not selected."""
    made = toy_graph([10, 8, 4], levels=["filter", "filter", "stage"])
    made.cost.of = lambda resource, widths, alive=None: made.cost.flops(np.asarray(widths), alive)
    return made


def test_rates_become_the_nearest_allowed_widths(graph: Any) -> None:
    rates = np.array([[0.0, 0.0], [0.5, 0.5], [0.04, 0.3], [0.95, 1.0]])
    assert space(graph).widths(rates).tolist() == [[10, 8, 4], [5, 4, 4], [10, 6, 4], [1, 1, 4]]


def test_floor_and_divisor_hold(graph: Any) -> None:
    widths = space(graph, min_keep=0.4, divisor=4).widths(np.array([[0.0, 0.0], [0.3, 0.3], [0.9, 0.9]]))
    assert widths.tolist() == [
        [10, 8, 4],
        [8, 4, 4],
        [4, 4, 4],
    ]  # 10 of 10 are kept; 8 is the next multiple of 4


def test_rates_are_scaled_by_the_smallest_number_that_meets_the_budget(graph: Any) -> None:
    found = space(graph, keep=0.5)  # the chain costs 10 + 80 + 32 = 122 in full
    (widths,) = found.shrunk_to_budget(np.array([[0.2, 0.2]]))
    assert found.costs(widths[None])[0] <= 61
    # Rates 0.2 scaled grow equally; of 10 and 8 channels: 7 and 5 (35 + 7 + 20 = 62) are just too many.
    assert widths.tolist() == [6, 5, 4]


def test_rows_that_cannot_meet_the_budget_are_left_out(graph: Any) -> None:
    found = space(graph, keep=0.2, min_keep=0.1)
    rows = found.shrunk_to_budget(np.array([[0.5, 0.0], [0.5, 0.5]]))
    assert len(rows) == 1 and found.costs(rows)[0] <= 0.2 * 122


def test_a_plan_keeps_the_best_and_the_first_of_equals(graph: Any) -> None:
    scores = Scores({"g0": np.array([5.0, 1, 5, 5, 0, 0, 0, 0, 0, 0]), "g1": np.arange(8.0)})
    assert space(graph).plan([2, 3, 4], scores).kept["g0"] == [0, 2]
    assert space(graph).plan([2, 3, 4], scores).kept["g1"] == [5, 6, 7]
