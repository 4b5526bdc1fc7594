from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from prunelab.errors import UserError
from prunelab.methods import Allocation, Budget, Scores
from prunelab.methods.allocation.candidate_widths import check_levels
from prunelab.methods.allocation.feasibility import require_feasible


def test_the_message_about_an_unreachable_budget_names_the_smallest_and_what_to_change(
    toy_graph: Callable[..., Any],
) -> None:
    # g0 keeps 10 (level stage): min_keep leaves 1 of g1's 10 channels, cost 10 + 10 of 10 + 100
    graph = toy_graph([10, 10], levels=["stage", "filter"])
    with pytest.raises(UserError) as caught:
        require_feasible(graph, Budget(flops=0.02), ["filter"], Allocation(), "resnet20")
    assert "budget.flops=0.02" in str(caught.value)
    assert "the smallest for resnet20 with levels [filter] is 0.182" in str(caught.value)
    assert "'stage'" in str(caught.value) and "divisor" not in str(caught.value)
    require_feasible(graph, Budget(flops=0.182), ["filter"], Allocation())


def test_floor_and_divisor_are_mentioned_when_they_bind(toy_graph: Callable[..., Any]) -> None:
    graph = toy_graph([32, 32], block_of=[-1, 0])
    with pytest.raises(UserError, match=r"add 'block' to levels, or .*budget\.min_keep=0\.5"):
        require_feasible(graph, Budget(flops=0.1), ["filter"], Allocation(min_keep=0.5))
    with pytest.raises(
        UserError, match=r"add 'block' to levels, or lower the divisor \(budget.divisor=8\)\.$"
    ):
        require_feasible(graph, Budget(flops=0.01), ["filter"], Allocation(min_keep=0.0, divisor=8))


def test_groups_without_a_score_are_mentioned(toy_graph: Callable[..., Any]) -> None:
    with pytest.raises(UserError, match=r"is 1; choose a criterion that scores all groups \(2 have no score"):
        require_feasible(toy_graph([4, 4]), Budget(flops=0.5), ["filter"], Allocation(), scores=Scores({}))


def test_groups_that_are_not_pruned_are_listed(toy_graph: Callable[..., Any]) -> None:
    graph = toy_graph([10, 10])
    require_feasible(graph, Budget(flops=0.3), ["filter"], Allocation(), exclude=["g0"])
    with pytest.raises(UserError, match=r"exclude \(\[g0\]\)"):
        require_feasible(graph, Budget(flops=0.05), ["filter"], Allocation(), exclude=["g0"])


def test_the_smallest_budget_can_be_typed_back(toy_graph: Callable[..., Any]) -> None:
    graph = toy_graph([300, 700], [1.0, 0.37])
    with pytest.raises(UserError, match=r"is 0\.0") as caught:
        require_feasible(graph, Budget(params=1e-6), ["filter"], Allocation(min_keep=0.01))
    smallest = float(str(caught.value).split(" is ")[1].split(";")[0])
    require_feasible(graph, Budget(params=smallest), ["filter"], Allocation(min_keep=0.01))
    with pytest.raises(UserError):
        require_feasible(graph, Budget(params=smallest * 0.9), ["filter"], Allocation(min_keep=0.01))


def test_levels_without_anything_to_remove(toy_graph: Callable[..., Any]) -> None:
    with pytest.raises(
        UserError, match=r"Nothing of vgg can be removed with levels \[stage\].* level filter"
    ):
        require_feasible(toy_graph([4]), Budget(flops=0.5), ["stage"], Allocation(), "vgg")


def test_the_error_for_a_frozen_network_names_the_reason(toy_graph: Callable[..., Any]) -> None:
    graph = toy_graph([4], frozen=[SimpleNamespace(name="stem", size=16, frozen="output of the network")])
    graph.groups = ()
    with pytest.raises(
        UserError, match=r"All its channels are frozen. stem \(16 channels\): output of the network"
    ):
        require_feasible(graph, Budget(flops=0.5), ["filter", "block"], Allocation())


def test_levels_are_checked_and_ordered() -> None:
    assert check_levels(["block", "filter"]) == ("filter", "block")
    with pytest.raises(UserError, match=r"levels: 'stages' does not exist\. Did you mean 'stage'"):
        check_levels(["stages"])
    with pytest.raises(UserError, match=r"levels=\[filter\]"):
        check_levels("filter")
    with pytest.raises(UserError, match="levels is empty"):
        check_levels([])
