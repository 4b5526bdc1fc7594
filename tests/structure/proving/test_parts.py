"""Parts of a channel dimension: each keeps a channel, and a position that is computed from the width is refuted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

import prunelab
from prunelab.structure import ChannelGraph, PruningPlan

IMAGES = torch.randn(1, 3, 4, 4)

Parts = Callable[["Network", Tensor], tuple[Tensor, Tensor]]


class Network(nn.Module):
    """Pools a part of the channels: a wrong position changes the output, but no shape."""

    def __init__(self, parts: Parts, width: int = 8) -> None:
        super().__init__()
        self.parts, self.first, self.sizes = parts, 5, [5, width - 5]
        self.make, self.read = nn.Conv2d(3, width, 1), nn.Conv2d(width, 2, 1)
        self.register_buffer("places", torch.tensor([0, 1, 2, 3, 4]))

    def forward(self, x: Tensor) -> Tensor:
        pooled, others = self.parts(self, self.make(x).relu())
        return self.read(torch.cat([max_pool2d(pooled, 3, 1, 1), others], 1))


class Shared(Network):
    """Reads both parts with parts of one weight: the whole dimensions are those of both."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.parts(self, self.make(x).relu())
        weights = self.read.weight[:, : self.first], self.read.weight[:, self.first :]
        return conv2d(first, weights[0]) + conv2d(second, weights[1])


class OwnRows(Network):
    """Makes both parts with rows of one weight."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = (conv2d(x, part) for part in self.parts(self, self.make.weight.transpose(0, 1)))
        return self.read(torch.cat([first.relu(), second.tanh()], 1))


class Two(Network):
    """The parts are those of two layers' channels."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.sizes, self.other, self.read = [5, 11], nn.Conv2d(3, 8, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.parts(self, torch.cat([self.make(x), self.other(x)], 1).relu())
        return self.read(torch.cat([max_pool2d(first, 3, 1, 1), second], 1))


def sliced(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, : network.first], x[:, network.first :]


def narrowed(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    return x.narrow(1, 0, network.first), x.narrow(1, network.first, x.shape[1] - network.first)


def divided(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    first, second = x.split(network.sizes, 1)
    return first, second


def selected(network: Network, x: Tensor) -> tuple[Tensor, Tensor]:
    return x.index_select(1, network.places), x


def rows(network: Network, weight: Tensor) -> tuple[Tensor, Tensor]:
    first, second = sliced(network, weight)
    return first.transpose(0, 1), second.transpose(0, 1)


def narrowest(graph: ChannelGraph) -> Iterator[PruningPlan]:
    """All plans that keep one channel of some groups and all channels of the others."""
    for choice in product((True, False), repeat=len(graph.groups)):
        yield graph.plan({group.name: [0] for group, one in zip(graph.groups, choice, strict=True) if one})


@pytest.mark.parametrize(
    ("kind", "parts", "sizes"),
    [
        (Network, sliced, [5, 3]),
        (Network, narrowed, [5, 3]),
        (Network, divided, [5, 3]),
        (Shared, sliced, [5, 3]),
        (OwnRows, rows, [5, 3]),
        (Two, divided, [5, 3, 8]),
    ],
)
def test_each_part_keeps_a_channel(kind: type[Network], parts: Parts, sizes: list[int]) -> None:
    model = kind(parts).eval()
    graph = prunelab.analyze(model, IMAGES)
    assert [group.size for group in graph.groups] == sizes
    for plan in narrowest(graph):
        pruned = prunelab.apply(copy.deepcopy(model), plan)
        assert prunelab.check(model, pruned, plan, IMAGES) < 1e-6


def test_an_index_takes_a_part() -> None:
    class Both(Network):
        def forward(self, x: Tensor) -> Tensor:
            y = self.make(x).relu()
            weight = self.read.weight
            return conv2d(y[:, self.places], weight[:, self.places]) + conv2d(y, weight)

    class Selected(Network):
        def forward(self, x: Tensor) -> Tensor:
            y = self.make(x).relu()
            weight = self.read.weight.index_select(1, self.places)
            return conv2d(y.index_select(1, self.places), weight) + self.read(y)

    graph = prunelab.analyze(Selected(selected), IMAGES)
    assert [group.size for group in graph.groups] == [5, 3]
    frozen = prunelab.analyze(Both(selected), IMAGES).frozen
    assert any("index selects along the channels" in str(group.frozen) for group in frozen)


@pytest.mark.parametrize("width", [5, 7, 11, 41])
@pytest.mark.parametrize(
    "position", [lambda n: n // 2, lambda n: (n + 1) // 2, lambda n: n - n // 3, lambda n: n * 5 // 8]
)
def test_a_position_that_is_a_fraction_of_the_width_is_refuted(
    width: int, position: Callable[[int], int]
) -> None:
    def computed(_: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        return x[:, : position(x.shape[1])], x[:, position(x.shape[1]) :]

    model = Network(computed, width).eval()
    graph = prunelab.analyze(model, IMAGES)
    assert not graph.groups
    assert any("slice" in str(group.frozen) for group in graph.frozen)


def test_unequal_chunks_are_frozen() -> None:
    def chunks(_: Network, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second, third = x.chunk(3, 1)
        return first, torch.cat([second, third], 1)

    assert not prunelab.analyze(Network(chunks, 20), IMAGES).groups
    assert [group.size for group in prunelab.analyze(Network(chunks, 21), IMAGES).groups] == [7]


def test_allocations_and_searches_keep_a_channel_of_each_part() -> None:
    model = Network(divided).eval()
    graph = prunelab.analyze(model, IMAGES)
    scores = prunelab.Scores({"make": -torch.arange(5.0).numpy(), "make#2": 10 + torch.arange(3.0).numpy()})
    for rule in ("global", "per_cost", "uniform", "knapsack"):
        allocation = prunelab.Allocation(rule, normalisation="max", min_keep=0.0)
        plan = prunelab.allocate(graph, scores, prunelab.Budget(params=0.4), allocation=allocation)
        assert all(plan.kept.values())
        pruned = prunelab.apply(copy.deepcopy(model), plan)
        assert prunelab.check(model, pruned, plan, IMAGES) < 1e-6
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(params=0.4), min_keep=0.4)
    space = prunelab.WidthSpace.of(method.context(model, IMAGES), scores)
    assert {name: int(widths[-1]) for name, widths in space.choices.items()} == {"make": 2, "make#2": 2}


def test_a_plan_without_channels_of_a_part_is_an_error() -> None:
    graph = prunelab.analyze(Network(divided), IMAGES)
    with pytest.raises(prunelab.UserError, match="group make#2: at least one channel must be kept"):
        graph.plan({"make#2": []})
