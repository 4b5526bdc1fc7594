"""Widths that must be equal: the program uses the width of one tensor for another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.structure import ChannelGraph, PruningPlan, SlicedNetwork

IMAGES = torch.randn(2, 3, 8, 8)


class Reduced(nn.Module):
    """Keys and values of fewer positions, as in SegFormer: ``C`` is the width of x, and the view that of ``reduce``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width, 2, stride=2)
        self.back = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        side = int(count**0.5)
        maps = self.reduce(x.transpose(1, 2).reshape(batch, width, side, side))
        rows = maps.reshape(batch, width, -1).transpose(1, 2)
        return x + self.back(rows).mean(1, keepdim=True)


class Modulated(nn.Module):
    """A part of one layer's result has the width of x, as in FocalNet: ``split(y, (C, C), dim)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.project, self.back = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        gate, value = torch.split(self.project(x), (width, width), -1)
        return x + self.back(gate.sigmoid() * value)


class Written(Reduced):
    """The width is a number in the program, which no other width can replace."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.reduce(x.transpose(1, 2).reshape(len(x), -1, 4, 4))
        return x + self.back(maps.reshape(len(x), 8, -1).transpose(1, 2)).mean(1, keepdim=True)


class Network(nn.Module):
    """A stem that makes 16 tokens, two blocks, a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.blocks = nn.ModuleList([kind(), kind()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("kind", "tied"), [(Reduced, "blocks.{}.reduce.weight"), (Modulated, "blocks.{}.project.weight")]
)
def test_channels_of_equal_number_are_removed_together(
    kind: type[nn.Module], tied: str, prune: Callable[..., Any]
) -> None:
    pruning = prune(Network(kind), IMAGES, kept={"blocks": [0, 2, 3, 5, 7]})
    assert pruning.error < 1e-9
    assert not pruning.frozen
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"blocks": 8}
    parameters = {found.parameter for found in pruning.graph.group("blocks").slices}
    assert {"stem.weight", *(tied.format(number) for number in (0, 1))} <= parameters
    with torch.no_grad():
        assert pruning.model(IMAGES).shape == (2, 4)


def test_a_number_in_the_program_freezes_only_its_layer() -> None:
    graph = prunelab.analyze(Network(Written), IMAGES)
    assert [group.name for group in graph.groups] == ["blocks"]
    assert {group.name for group in graph.frozen} == {"blocks.0.reduce", "blocks.1.reduce", "head"}


def members_of(graph: ChannelGraph) -> list[str]:
    (group,) = graph.groups
    return [member.name for member in group.members]


@pytest.mark.parametrize("kind", [Reduced, Modulated])
def test_each_member_loses_its_own_channels(kind: type[nn.Module]) -> None:
    model = Network(kind).eval()
    graph = prunelab.analyze(model, IMAGES)
    first, second, third = members_of(graph)
    plan = graph.plan({first: [0, 2, 3], second: [1, 6, 7], third: [3, 4, 5]})
    assert plan.kept == {first: (0, 2, 3)}
    assert plan.members == {second: (1, 6, 7), third: (3, 4, 5)}
    assert PruningPlan.from_json(plan.to_json()) == plan
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9
    assert graph.cost.params(plan) == sum(each.numel() for each in pruned.parameters())
    assert graph.plan({first: [0, 2, 3]}).members == {second: (0, 2, 3), third: (0, 2, 3)}


def test_members_keep_equally_many() -> None:
    graph = prunelab.analyze(Network(Reduced), IMAGES)
    first, second, _ = members_of(graph)
    with pytest.raises(
        prunelab.UserError, match=f"{second} must keep as many channels as {first}.*: 2 and 8 were"
    ):
        graph.plan({second: [0, 1]})
    with pytest.raises(prunelab.UserError, match=f"group {second} has channels 0 to 7; 8 is not"):
        graph.plan({second: [8]})


def test_plans_with_members_compose() -> None:
    model = Network(Reduced).eval()
    pruned = copy.deepcopy(model)
    for kept in ([0, 1, 2, 4, 6, 7], [1, 2, 5]):
        graph = prunelab.analyze(pruned, IMAGES)
        first, second, third = members_of(graph)
        prunelab.apply(pruned, graph.plan({first: kept, second: kept[::-1], third: range(len(kept))}))
    plan = pruned.prunelab_plan
    assert plan.kept == {first: (1, 2, 7)}
    assert plan.members == {second: (1, 2, 7), third: (0, 1, 2)}
    with torch.no_grad():
        torch.testing.assert_close(prunelab.apply(copy.deepcopy(model), plan)(IMAGES), pruned(IMAGES))


def test_a_supernet_orders_each_member() -> None:
    model = Network(Reduced).eval()
    graph = prunelab.analyze(model, IMAGES)
    orders = {name: torch.randperm(8).tolist() for name in members_of(graph)}
    sliced = SlicedNetwork(model, graph, orders)
    plan = graph.plan({name: order[:5] for name, order in orders.items()})
    with torch.no_grad(), sliced.at({"blocks": 5}):
        outputs = model(IMAGES)
    with torch.no_grad():
        torch.testing.assert_close(outputs, prunelab.apply(copy.deepcopy(model), plan)(IMAGES))


class Contracted(Reduced):
    """The two widths are contracted with each other, so that they must lose the same places."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        maps = self.reduce(x.transpose(1, 2).reshape(batch, width, 4, 4)).reshape(batch, width, -1)
        return x + self.back(x) * torch.sigmoid(x @ maps).mean(2, keepdim=True)


def test_contracted_channels_lose_the_same_places(prune: Callable[..., Any]) -> None:
    pruning = prune(Network(Contracted), IMAGES, kept={"blocks": [0, 2, 3, 5, 7]})
    assert pruning.error < 1e-9
    assert not pruning.graph.group("blocks").members


class Joined(nn.Module):
    """The width is the sum of two layers' widths."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 4, 1)
        self.reduce, self.head = nn.Conv2d(10, 10, 2, stride=2), nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first(x), self.second(x)], 1)
        return self.head(self.reduce(x).reshape(len(x), x.shape[1], -1).mean(2))


def test_a_sum_of_widths_ties_the_channels(prune: Callable[..., Any]) -> None:
    pruning = prune(Joined(), IMAGES, kept={"first": [0, 2, 3], "second": [1, 3]})
    assert pruning.error < 1e-9
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"first": 6, "second": 4}
    assert not any(group.members for group in pruning.graph.groups)


class Scaled(Reduced):
    """Divides by the root of the width before it uses the width for another layer."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * x.shape[-1] ** -0.5)


def test_groups_stay_inexact_when_the_proof_starts_again() -> None:
    (group,) = prunelab.analyze(Network(Scaled), IMAGES).groups
    assert len(group.members) == 3
    assert "a number that is computed from the width" in str(group.inexact)
