"""The guarantees of an allocation, on graphs without a network and on real ones."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.errors import UserError
from prunelab.methods import Allocation, Budget, Scores, allocate
from prunelab.methods.allocation.candidate_widths import allowed_widths, build_candidate_widths, normalised
from prunelab.methods.allocation.ties import tied
from prunelab.structure import analyze


def widths(plan: Any) -> list[int]:
    return [len(kept) for kept in plan.kept.values()]


def linear_graph(toy_graph: Callable[..., Any], *sizes: int) -> Any:
    """Every channel of every group costs 1, independent of the others."""
    graph = toy_graph(sizes)
    graph.cost.flops = lambda rows=None, alive=None: np.sum(sizes) if rows is None else np.sum(rows, axis=1)
    return graph


SCORES = {"g0": np.array([1.0, 2.0, 3.0, 4.0]), "g1": np.array([10.0, 10.0, 10.0, 50.0])}


def test_global_removes_the_lowest_normalised_scores(toy_graph: Callable[..., Any]) -> None:
    # means 2.5 and 20: .4 .8 1.2 1.6 and .5 .5 .5 2.5; four of eight channels must be removed: .4 .5 .5 .5
    plan = allocate(linear_graph(toy_graph, 4, 4), Scores(SCORES), Budget(flops=0.5))
    assert plan.kept == {"g0": (1, 2, 3), "g1": (3,)}


def test_global_without_normalisation_compares_scores_as_they_are(toy_graph: Callable[..., Any]) -> None:
    # 1 2 3 are removed (4 is the last of its group), then one of the three 10s: the first of equal ones is kept
    plan = allocate(
        linear_graph(toy_graph, 4, 4),
        Scores(SCORES),
        Budget(flops=0.5),
        allocation=Allocation(normalisation="none"),
    )
    assert plan.kept == {"g0": (3,), "g1": (0, 1, 3)}


def test_uniform_keeps_the_same_ratio_everywhere(toy_graph: Callable[..., Any]) -> None:
    scores = Scores({"g0": np.arange(20.0), "g1": np.arange(10.0), "g2": np.arange(40.0)})
    graph = linear_graph(toy_graph, 20, 10, 40)
    plan = allocate(graph, scores, Budget(flops=0.4), allocation=Allocation(rule="uniform"))
    assert widths(plan) == [8, 4, 16]
    assert plan.kept["g1"] == (6, 7, 8, 9)


@pytest.mark.parametrize(
    ("normalisation", "expected"),
    [("mean", [0.5, 1.5]), ("max", [1 / 3, 1]), ("l2", [1 / 10**0.5, 3 / 10**0.5]), ("none", [2, 6])],
)
def test_normalisations(normalisation: Any, expected: list[float]) -> None:
    np.testing.assert_allclose(normalised(np.array([2.0, 6.0]), normalisation), expected)
    np.testing.assert_array_equal(normalised(np.zeros(3), normalisation), np.zeros(3))


@pytest.mark.parametrize(
    ("size", "min_keep", "divisor", "expected"),
    [
        (5, 0.0, 1, [5, 4, 3, 2, 1]),
        (30, 0.9, 1, [30, 29, 28, 27]),
        (20, 0.3, 8, [20, 16, 8]),
        (20, 0.5, 8, [20, 16]),
        (16, 0.0, 8, [16, 8]),
        (7, 0.0, 8, [7]),
        (4, 1.0, 1, [4]),
    ],
)
def test_allowed_widths(size: int, min_keep: float, divisor: int, expected: list[int]) -> None:
    assert allowed_widths(size, min_keep, divisor).tolist() == expected


def test_a_step_of_several_channels_waits_for_the_best_of_them(toy_graph: Callable[..., Any]) -> None:
    scores = Scores({"g0": np.array([0.0, 9.0, 1.0, 2.0])})
    (option,) = build_candidate_widths(
        toy_graph([4]), scores, ["filter"], Allocation(normalisation="none", divisor=2, min_keep=0)
    )
    assert option.widths.tolist() == [4, 2]
    assert option.priorities.tolist() == [1.0]
    assert option.kept(2) == (1, 3)


def test_blocks_compete_with_channels(toy_graph: Callable[..., Any]) -> None:
    # g1 lies in block b0, g2 in b1; all channels have equal scores, b1 a low one: it is dropped first, which is
    # sufficient
    graph = toy_graph([4, 4, 4], block_of=[-1, 0, 1])
    scores = Scores({f"g{i}": np.ones(4) for i in range(3)}, {"b0": 9.0, "b1": 1.0})
    keep = (4 + 16) / (4 + 16 + 16)
    plan = allocate(graph, scores, Budget(flops=keep), levels=("filter", "block"))
    assert plan.dropped_blocks == ("b1",)
    assert widths(plan) == [4, 4, 4]


def test_a_block_too_coarse_for_the_budget_is_kept(toy_graph: Callable[..., Any]) -> None:
    # b0 has the lowest score, but the cost of a hundred channels: channels of higher score meet the budget instead
    graph = toy_graph([10, 10, 10], block_of=[-1, 0, 1])
    scores = Scores({f"g{i}": np.ones(10) for i in range(3)}, {"b0": 0.1, "b1": 1.9})
    plan = allocate(graph, scores, Budget(flops=199 / 210), levels=("filter", "block"))
    assert plan.dropped_blocks == ()
    assert widths(plan) == [9, 10, 10]


def test_uniform_drops_blocks_at_the_rate_of_channels(toy_graph: Callable[..., Any]) -> None:
    # in order of score b1 b2 b0 b3 are dropped once 1/4, 2/4, 3/4, 4/4 of all channels are removed
    graph = toy_graph([8, 8, 8, 8, 8], block_of=[-1, 0, 1, 2, 3])
    scores = Scores({f"g{i}": np.ones(8) for i in range(5)}, {"b0": 3.0, "b1": 1.0, "b2": 2.0, "b3": 4.0})
    levels, uniform = ("filter", "block"), Allocation(rule="uniform")
    at_half = allocate(graph, scores, Budget(flops=52 / 264), levels, uniform)
    assert (at_half.dropped_blocks, widths(at_half)) == (("b1",), [4, 4, 4, 4, 4])
    past_half = allocate(graph, scores, Budget(flops=36 / 264), levels, uniform)
    assert (past_half.dropped_blocks, widths(past_half)) == (("b1", "b2"), [4, 4, 4, 4, 4])


def test_only_the_chosen_levels_are_touched(toy_graph: Callable[..., Any]) -> None:
    graph = toy_graph([8, 8], levels=["filter", "stage"])
    scores = Scores({"g0": np.arange(8.0), "g1": np.arange(8.0)})
    assert widths(allocate(graph, scores, Budget(flops=0.5), levels=["stage"]))[0] == 8
    assert widths(allocate(graph, scores, Budget(flops=0.5), levels=["filter"]))[1] == 8


def test_a_group_without_a_score_is_not_pruned(toy_graph: Callable[..., Any]) -> None:
    plan = allocate(toy_graph([8, 8]), Scores({"g1": np.arange(8.0)}), Budget(flops=0.5))
    assert plan.kept["g0"] == tuple(range(8))


def test_keeping_everything_removes_nothing(toy_graph: Callable[..., Any]) -> None:
    plan = allocate(toy_graph([3, 5]), Scores({"g0": np.ones(3), "g1": np.ones(5)}), Budget(params=1.0))
    assert widths(plan) == [3, 5]


def test_floor_and_budget_refer_to_the_full_network_in_later_rounds(toy_graph: Callable[..., Any]) -> None:
    full, pruned = linear_graph(toy_graph, 40), linear_graph(toy_graph, 10)
    scores = Scores({"g0": np.arange(10.0)})
    plan = allocate(pruned, scores, Budget(flops=0.15), reference=full)
    assert widths(plan) == [6]  # 15 % of 40
    with pytest.raises(UserError, match=r"is 0\.1;"):  # the minimum is 10 % of 40, not of 10
        allocate(pruned, scores, Budget(flops=0.05), reference=full)


@st.composite
def tasks(draw: st.DrawFn) -> SimpleNamespace:
    n_groups = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(1, 14), min_size=n_groups, max_size=n_groups))
    coefficients = draw(
        st.lists(st.sampled_from([1.0, 2.0, 7.0, 30.0]), min_size=n_groups, max_size=n_groups)
    )
    n_blocks = draw(st.integers(0, n_groups))
    block_of = [i if i < n_blocks else -1 for i in range(n_groups)][::-1]
    score = st.floats(0, 10, allow_subnormal=False)
    return SimpleNamespace(
        sizes=sizes,
        coefficients=coefficients,
        block_of=[-1 if b == -1 else n_blocks - 1 - b for b in block_of],
        channels={
            f"g{i}": np.array(draw(st.lists(score, min_size=s, max_size=s))) for i, s in enumerate(sizes)
        },
        blocks={f"b{i}": draw(score) for i in range(n_blocks)},
        levels=draw(st.sampled_from([("filter",), ("filter", "block")])),
        allocation=Allocation(
            rule=draw(st.sampled_from(["global", "uniform"])),
            normalisation=draw(st.sampled_from(["mean", "max", "l2", "none"])),
            min_keep=draw(st.sampled_from([0.0, 0.1, 0.5])),
            divisor=draw(st.sampled_from([1, 1, 2, 8])),
        ),
        budget=Budget(flops=draw(st.floats(0.01, 1.0))),
    )


@pytest.mark.slow
@settings(max_examples=300)
@given(task=tasks())
def test_every_plan_keeps_the_promises(toy_graph: Callable[..., Any], task: SimpleNamespace) -> None:
    graph = toy_graph(task.sizes, task.coefficients, block_of=task.block_of)
    scores = Scores(task.channels, task.blocks)
    ask = (graph, scores, task.budget, task.levels, task.allocation)
    target = task.budget.keep * graph.cost.flops()
    options = build_candidate_widths(graph, scores, task.levels, task.allocation)
    allowed = {option.name: option.widths.tolist() for option in options}
    narrowest = np.array([[min(allowed[group.name]) for group in graph.groups]])
    alive = np.zeros((1, len(graph.blocks))) if "block" in task.levels else np.ones((1, len(graph.blocks)))
    reachable = graph.cost.flops(narrowest, alive)[0] <= target
    if not reachable:
        with pytest.raises(UserError, match="cannot be reached"):
            allocate(*ask)
        return

    plan = allocate(*ask)
    assert graph.cost.flops(plan) <= target
    assert plan == allocate(*ask)
    standing = np.array([[name not in plan.dropped_blocks for name in plan.blocks]], dtype=np.int64)
    now = np.array([widths(plan)])
    for column, group in enumerate(graph.groups):
        kept, score = plan.kept[group.name], tied(task.channels[group.name])
        removed = sorted(set(range(group.size)) - set(kept))
        assert list(kept) == sorted(set(kept)) and kept
        assert len(kept) in allowed[group.name]
        assert len(kept) >= max(1, task.allocation.min_keep * group.size) or len(kept) == group.size
        assert len(kept) == group.size or len(kept) % task.allocation.divisor == 0
        assert not removed or min(score[list(kept)]) >= max(score[removed])
        if removed:  # one step back would not fit (or lies in a dropped block)
            wider = now.copy()
            wider[0, column] = allowed[group.name][allowed[group.name].index(len(kept)) - 1]
            cost = graph.cost.flops(wider, standing)[0]
            assert cost > target or cost == graph.cost.flops(plan)
    for index in np.flatnonzero(standing[0] == 0):
        restored = standing.copy()
        restored[0, index] = 1
        assert graph.cost.flops(now, restored)[0] > target or graph.cost.flops(now, restored)[
            0
        ] == graph.cost.flops(plan)


@pytest.fixture(
    scope="module",
    params=["resnet18", "mobilenetv2_050", pytest.param("densenet121", marks=pytest.mark.slow)],
)
def real_graph(request: pytest.FixtureRequest) -> Any:
    return analyze(timm.create_model(request.param, num_classes=10), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("rule", ["global", "uniform"])
@pytest.mark.parametrize("levels", [("filter",), ("filter", "stage"), ("filter", "stage", "block")])
def test_real_budgets_are_met_to_one_channel_of_the_finest_group(
    real_graph: Any, rule: Any, levels: Any
) -> None:
    generator = np.random.default_rng(0)
    scores = Scores(
        {group.name: generator.gamma(4.0, size=group.size) for group in real_graph.groups},
        {block.name: generator.gamma(4.0) for block in real_graph.blocks},
    )
    full = real_graph.cost.flops()
    for keep in (0.9, 0.75, 0.5, 0.35):
        plan = allocate(real_graph, scores, Budget(flops=keep), levels, Allocation(rule=rule))
        cost = real_graph.cost.flops(plan)
        state = np.array([widths(plan)])
        alive = np.array(
            [[block.name not in plan.dropped_blocks for block in real_graph.blocks]], dtype=np.int64
        )
        touchable = [
            i for i, group in enumerate(real_graph.groups) if group.level in levels and group.size > 1
        ]
        neighbours = np.repeat(state, len(touchable), axis=0)
        for row, column in enumerate(touchable):
            full_width = real_graph.groups[column].size
            neighbours[row, column] += 1 if state[0, column] < full_width else -1
        changes = np.abs(real_graph.cost.flops(neighbours, np.repeat(alive, len(touchable), axis=0)) - cost)
        assert 0 <= keep * full - cost < changes[changes > 0].min()


def test_a_larger_budget_keeps_more(real_graph: Any) -> None:
    scores = Scores({group.name: np.arange(1.0, group.size + 1) for group in real_graph.groups})
    costs = [
        real_graph.cost.params(allocate(real_graph, scores, Budget(params=keep)))
        for keep in np.linspace(0.3, 1, 15)
    ]
    assert costs == sorted(costs)


def test_bad_settings_are_named() -> None:
    with pytest.raises(UserError, match=r"'globl' does not exist\. Did you mean 'global'"):
        Allocation(rule="globl")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="normalisation: 'sum'"):
        Allocation(normalisation="sum")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"min_keep=1\.5"):
        Allocation(min_keep=1.5)
    with pytest.raises(UserError, match="divisor=0"):
        Allocation(divisor=0)


def test_scores_that_are_not_finite_are_errors(toy_graph: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match="scores of g0 are not finite"):
        allocate(toy_graph([2]), Scores({"g0": np.array([1.0, np.nan])}), Budget(flops=0.5))


def test_a_latency_budget_uses_the_latencies_of_the_cost_model(toy_graph: Any) -> None:
    graph = toy_graph([8, 8])
    scores = Scores({"g0": np.arange(8.0), "g1": np.arange(8.0)})
    with pytest.raises(UserError, match=r"budget\.latency needs measured latencies"):
        allocate(graph, scores, Budget(latency=0.5))
    # Steps of four channels, as of a runtime: 5 ms each, and 10 ms that no width changes.
    graph.cost.resources = ("flops", "params", "latency")
    graph.cost.latency = lambda widths=None, alive=None: (
        10 + 5 * np.ceil(np.atleast_2d(_widths(graph, widths)) / 4).sum(axis=1)
    ).reshape(-1 if widths is not None else ())
    plan = allocate(graph, scores, Budget(latency=0.67), allocation=Allocation(min_keep=0.0))
    kept = [len(plan.kept[name]) for name in ("g0", "g1")]
    assert graph.cost.latency(np.array([kept]))[0] <= 0.67 * 30
    assert kept == [4, 4]


def _widths(graph: Any, widths: Any) -> Any:
    return [group.size for group in graph.groups] if widths is None else widths
