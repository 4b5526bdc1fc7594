"""The knapsack allocation, against all solutions of small problems."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import prunelab
from prunelab.methods import Allocation, Budget, Scores, allocate
from prunelab.methods.allocation.knapsack import pareto_choices

KNAPSACK = Allocation("knapsack", normalisation="none", min_keep=0.0)


def kept_score(scores: Scores, plan: Any) -> float:
    return float(sum(scores.channels[name][list(plan.kept[name])].sum() for name in scores.channels))


def best_score(graph: Any, scores: Scores, target: float) -> float:
    """The largest sum of scores within the target, of all widths."""
    names = list(scores.channels)
    ordered = {name: np.sort(scores.channels[name])[::-1] for name in names}
    widths = np.array(list(product(*(range(1, len(ordered[name]) + 1) for name in names))))
    fits = widths[np.asarray(graph.cost.flops(widths, np.ones((len(widths), 0)))) <= target]
    return max(
        float(sum(ordered[name][:w].sum() for name, w in zip(names, row, strict=True))) for row in fits
    )


def random_scores(seed: int, sizes: tuple[int, ...]) -> Scores:
    generator = np.random.default_rng(seed)
    return Scores(
        {f"g{i}": generator.random(size) * generator.uniform(0.2, 3) for i, size in enumerate(sizes)}
    )


@settings(max_examples=40)
@given(
    items=st.lists(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4),
        min_size=1,
        max_size=4,
    ),
    limit=st.integers(0, 30),
)
def test_all_best_solutions_are_found(items: list[list[tuple[int, int]]], limit: int) -> None:
    costs = [np.array([float(cost) for cost, _ in group]) for group in items]
    losses = [np.array([float(loss) for _, loss in group]) for group in items]
    found = pareto_choices(costs, losses, float(limit))
    every = [(sum(c for c, _ in each), sum(x for _, x in each)) for each in product(*items)]
    for room in range(limit + 1):
        best = min((loss for cost, loss in every if cost <= room), default=None)
        within = found.losses[found.costs <= room]
        assert (None if best is None else float(best)) == (within.min() if len(within) else None)
    for row, cost, loss in zip(found.chosen, found.costs, found.losses, strict=True):
        assert cost == sum(group[item] for group, item in zip(costs, row, strict=True))
        assert loss == sum(group[item] for group, item in zip(losses, row, strict=True))


@pytest.mark.parametrize("seed", range(5))
def test_the_stated_bound_holds_with_few_points(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs = [generator.random(12) for _ in range(6)]
    losses = [1 - cost + 0.2 * generator.random(12) for cost in costs]
    points, limit = 60, 3.0
    exact = pareto_choices(costs, losses, limit)
    few = pareto_choices(costs, losses, limit, points)
    smaller = limit * (1 - len(costs) / points)
    assert few.losses.min() <= exact.losses[exact.costs <= smaller].min()
    assert few.costs.max() <= limit
    assert len(few.costs) <= points + 1 < len(exact.costs)


@pytest.mark.parametrize("seed", range(8))
def test_separate_costs_are_solved_exactly(toy_graph: Callable[..., Any], seed: int) -> None:
    sizes = (4, 5, 3)
    generator = np.random.default_rng(seed)
    prices = [
        np.concatenate([[0.0], np.cumsum(generator.integers(0, 5, size))]) for size in sizes
    ]  # with steps
    graph = toy_graph(sizes)

    def flops(rows: Any = None, alive: Any = None) -> Any:
        rows = np.array([sizes]) if rows is None else np.asarray(rows, dtype=int)
        return sum(price[rows[:, i]] for i, price in enumerate(prices)).reshape(-1)

    graph.cost.flops = lambda rows=None, alive=None: float(flops()[0]) if rows is None else flops(rows)
    scores, target = random_scores(seed, sizes), 0.5 * float(flops()[0])
    plan = allocate(graph, scores, Budget(flops=0.5), allocation=KNAPSACK)
    assert kept_score(scores, plan) == pytest.approx(best_score(graph, scores, target))


@pytest.mark.parametrize("seed", range(8))
def test_products_of_widths_are_solved_nearly_as_well_as_by_trying_all(
    toy_graph: Callable[..., Any], seed: int
) -> None:
    sizes = (6, 5, 7)
    graph, scores = toy_graph(sizes), random_scores(seed, sizes)
    target = 0.5 * float(graph.cost.flops())
    plan = allocate(graph, scores, Budget(flops=0.5), allocation=KNAPSACK)
    assert float(graph.cost.flops(plan)) <= target
    assert kept_score(scores, plan) >= 0.97 * best_score(graph, scores, target)
    for rule in ("global", "per_cost"):
        other = allocate(graph, scores, Budget(flops=0.5), allocation=Allocation(rule, "none", 0.0))  # type: ignore[arg-type]
        assert kept_score(scores, plan) >= kept_score(scores, other) - 1e-12


def test_a_wider_group_that_costs_no_more_is_chosen(toy_graph: Callable[..., Any]) -> None:
    """Eight channels cost as much as five: a kernel computes eight at a time."""
    graph = toy_graph([16, 16])
    graph.cost.flops = lambda rows=None, alive=None: (
        4.0 if rows is None else np.ceil(np.asarray(rows) / 8).sum(axis=1)
    )
    scores = Scores({"g0": np.arange(1.0, 17.0), "g1": np.full(16, 0.1)})
    plan = allocate(graph, scores, Budget(flops=0.75), allocation=KNAPSACK)
    assert [len(kept) for kept in plan.kept.values()] == [16, 8]


@pytest.mark.parametrize("resource", ["flops", "params"])
def test_blocks_and_channels_of_a_network(resource: str) -> None:
    torch.manual_seed(0)

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + self.two(self.one(images).relu())

    network = nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block(), nn.Conv2d(8, 4, 1))
    method = prunelab.ImportanceMethod(
        prunelab.Random(),
        Budget(**{resource: 0.4}),
        levels=("filter", "stage", "block"),
        allocation="knapsack",
    )
    context = method.context(network, torch.zeros(1, 3, 8, 8))
    plan = method.decide(context)
    cost = context.graph.cost.function(resource)
    assert cost(plan) <= 0.4 * cost()
    prunelab.apply(network, plan)(torch.zeros(1, 3, 8, 8))
