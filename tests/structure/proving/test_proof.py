"""Constants in the program: attributes that depend on a width are set, other constants freeze one group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.structure.proving.pruned_run import PrunedRun

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


class Reads(nn.Module):
    """A layer whose forward pass reads a width from an attribute of the module."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.layer = conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x)).view(-1, self.channels, 8, 8)


def test_an_attribute_that_follows_a_width_is_set(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), Reads(8), conv(8, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "1.layer": ("filter", 8)}
    assert pruning.model[1].channels == pruning.plan.widths["1.layer"][1] < 8
    assert pruning.original[1].channels == 8


def test_the_same_attribute_of_many_modules(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), Reads(8), Reads(8), Reads(8), conv(8, 2)), IMAGES)
    assert list(pruning.groups) == ["0", "1.layer", "2.layer", "3.layer"]
    for number in (1, 2, 3):
        assert pruning.model[number].channels == pruning.plan.widths[f"{number}.layer"][1]


class Divides(nn.Module):
    """Splits its channels by sizes that are attributes: a tuple or single integers."""

    def __init__(self, sizes: tuple[int, ...], together: bool) -> None:
        super().__init__()
        self.layer = conv(sum(sizes), sum(sizes))
        self.part = conv(sizes[0], sizes[0])
        self.together = together
        if together:
            self.sizes = sizes
        else:
            self.first, self.second = sizes

    def forward(self, x: Tensor) -> Tensor:
        sizes = self.sizes if self.together else [self.first, self.second]
        first, second = torch.split(torch.relu(self.layer(x)), sizes, dim=1)
        return torch.cat([torch.relu(self.part(first)), second], dim=1)


@pytest.mark.parametrize("together", [True, False])
def test_sizes_of_parts_follow_together(exact: Callable[..., Any], together: bool) -> None:
    model = nn.Sequential(conv(3, 10), Divides((4, 6), together), Divides((4, 6), together), conv(10, 2))
    pruning = exact(model, IMAGES)
    assert pruning.frozen == {}
    for number in (1, 2):
        layer = pruning.model[number]
        sizes = layer.sizes if together else (layer.first, layer.second)
        assert sizes[0] == layer.part.in_channels and sum(sizes) == layer.layer.out_channels < 10
    original = pruning.original[1]
    assert (original.sizes if together else (original.first, original.second)) == (4, 6)


def test_an_attribute_of_a_child_whose_method_is_called(exact: Callable[..., Any]) -> None:
    class Bias(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.shape = nn.Parameter(torch.randn(64, 6)), (8, 8, 6)

        def bias(self) -> Tensor:
            return self.table[torch.arange(64)].view(self.shape).permute(2, 0, 1)

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.shift = conv(3, 6), Bias()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x) + self.shift.bias())

    pruning = exact(nn.Sequential(Shifted(), conv(6, 2)), IMAGES)
    assert list(pruning.groups.values()) == [("filter", 6)]
    assert pruning.model[0].shift.shape == (8, 8, pruning.model[0].layer.out_channels)


def test_an_attribute_that_equals_a_width_by_chance_is_not_changed(exact: Callable[..., Any]) -> None:
    class Chance(Reads):
        def __init__(self) -> None:
            super().__init__(8)
            self.unrelated = 8

    pruning = exact(nn.Sequential(conv(3, 8), Chance(), conv(8, 2)), IMAGES)
    assert pruning.groups["1.layer"] == ("filter", 8)
    assert pruning.model[1].unrelated == 8


def test_an_attribute_that_means_two_things_freezes(exact: Callable[..., Any]) -> None:
    """``channels`` is also the side of the image."""

    class Twice(Reads):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x)).view((-1, self.channels, self.channels, self.channels))

    pruning = exact(nn.Sequential(conv(3, 6), conv(6, 8), Twice(8), conv(8, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 6), "1": ("filter", 8)}
    assert list(pruning.frozen) == ["2.layer"]


def test_one_guilty_group_among_many(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        for layer in net.layers:
            x = F.relu(layer(x))
        x = net.failing(x).view(-1, 9, 64)
        return net.last(F.relu(net.after(x.view(-1, 9, 8, 8))))

    parts = {
        "layers": nn.ModuleList([conv(3, 8), conv(8, 8), conv(8, 8)]),
        "failing": conv(8, 9),
        "after": conv(9, 7),
    }
    pruning = exact(network(forward, **parts, last=conv(7, 2)), IMAGES)
    assert list(pruning.groups) == ["layers.0", "layers.1", "layers.2", "after"]
    assert list(pruning.frozen) == ["failing"]


class Inner(nn.Module):
    def forward(self, x: Tensor, width: int) -> Tensor:
        return x.view((x.shape[0], -1, 8 * (width // 6), 8))


class Outer(nn.Module):
    """A child fails for another width of channels that it does not handle itself."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back, self.inner = conv(4, 6), conv(6, 4), Inner()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.back(torch.relu(self.wide(self.inner(x, self.wide.weight.shape[0]))))


def test_repeated_modules_are_searched_once(
    exact: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    trials, run = [], PrunedRun.run_network
    monkeypatch.setattr(PrunedRun, "run_network", lambda *given: (trials.append(1), run(*given))[1])
    structure = prunelab.analyze(nn.Sequential(conv(3, 4), *(Outer() for _ in range(8)), conv(4, 2)), IMAGES)
    assert {group.name for group in structure.frozen} == {*(f"{number}.wide" for number in range(1, 9)), "9"}
    assert [group.name for group in structure.groups] == ["0"]
    assert len(trials) < 24  # eight searches of one group each would take more than 40


def test_two_guilty_groups(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.first(F.relu(net.stem(x))).view(-1, 9, 64)
        x = net.second(F.relu(x.view(-1, 9, 8, 8)))
        return net.last(x.split([3, 4], 1)[1])

    parts = {"stem": conv(3, 8), "first": conv(8, 9), "second": conv(9, 7), "last": conv(4, 2)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert list(pruning.groups) == ["stem"]
    assert {name.partition("#")[0] for name in pruning.frozen} == {"first", "second"}


def test_a_width_that_decides_the_way_freezes(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(F.relu(net.stem(x)))
        return net.last(F.relu(x) if x.shape[1] == 8 else torch.tanh(x))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), last=conv(8, 2)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert list(pruning.frozen) == ["conv"]


def test_a_constant_factor_of_the_width_freezes(exact: Callable[..., Any], network: Any) -> None:
    """A buffer of a written-out width that is not the network's own."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(F.relu(net.stem(x)))
        return net.last(x * torch.linspace(0, 1, 8, device=x.device, dtype=x.dtype).view(8, 1, 1))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), last=conv(8, 2)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert "without known channels" in pruning.frozen["conv"]


def test_a_factor_computed_from_the_width_is_not_called_exact(network: Any) -> None:
    """The network would be pruned well, but masked and pruned differ: frozen or inexact, never exact."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(F.relu(net.stem(x))))
        return net.last(x * x.shape[1] ** -0.5)

    graph = prunelab.analyze(network(forward, stem=conv(3, 6), conv=conv(6, 8), last=conv(8, 2)), IMAGES)
    assert {group.name: group.exact for group in graph.groups if group.exact} == {"stem": True}


@pytest.mark.parametrize("channels", [2, 3, 4, 5, 7, 16])
def test_halves_of_any_width(exact: Callable[..., Any], network: Any, channels: int) -> None:
    """An odd width cannot be halved into parts that stay equal: the group must also be valid later."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(F.relu(net.stem(x))))
        half = x.shape[1] // 2
        return net.last(torch.cat([x[:, half:], x[:, :half]], 1))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, channels), last=conv(channels, 2)), IMAGES)
    assert pruning.groups["stem"] == ("filter", 6)


class EqualisedRate(nn.Module):
    """A convolution whose weight is divided by the square root of its inputs when it runs (StyleGAN)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * (2 / (9 * self.weight.shape[1])) ** 0.5, padding=1)


def test_a_factor_that_is_computed_from_a_width_is_inexact(inexact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        EqualisedRate(3, 8), nn.ReLU(), EqualisedRate(8, 6), nn.ReLU(), EqualisedRate(6, 2)
    )
    pruning = inexact(network, IMAGES)
    assert pruning.inexact == dict.fromkeys(("0", "2"), "mul uses a number that is computed from the width")
    frozen = {group.name: group.frozen for group in prunelab.analyze(network, IMAGES, exact=True).frozen}
    assert frozen["0"] == "not exact: mul uses a number that is computed from the width (in 2)"


def test_only_the_groups_that_a_factor_depends_on_are_inexact(network: Any) -> None:
    """The factor depends only on every fourth channel of the first."""

    def forward(net: Any, x: Tensor) -> Tensor:
        first = net.first(x).relu()
        second = net.second(first).relu()
        third = net.third(second).relu()
        return net.last(third / (first.shape[1] // 4 + second.shape[1]))

    layers = {"first": conv(3, 40), "second": conv(40, 12), "third": conv(12, 7), "last": conv(7, 2)}
    graph = prunelab.analyze(network(forward, **layers), IMAGES)
    assert {group.name: group.exact for group in graph.groups} == {
        "first": False,
        "second": False,
        "third": True,
    }


def test_a_block_with_such_a_factor_can_be_dropped(network: Any) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = conv(8, 5), conv(5, 8)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.first(x).relu()
            return x + self.second(hidden * hidden.shape[1] ** -0.5)

    graph = prunelab.analyze(nn.Sequential(conv(3, 8), Block(), conv(8, 2)), IMAGES)
    assert [block.name for block in graph.blocks] == ["1"]
    assert {group.name: group.exact for group in graph.groups} == {"1.second": True, "1.first": False}


class Checked(nn.Module):
    """Rejects another number of channels than it was made for."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.channels, self.conv = channels, nn.Conv2d(channels, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != self.channels:
            raise ValueError(f"expected {self.channels} channels")
        return F.relu(self.conv(x))


def test_a_check_of_the_width_around_a_layer_follows_the_width(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(Checked(3, 8), Checked(8, 6), nn.Conv2d(6, 2, 1)), IMAGES)
    assert pruning.groups == {"0.conv": ("filter", 8), "1.conv": ("filter", 6)}
    assert pruning.plan.attributes["1"] == {"channels": len(pruning.plan.kept["0.conv"])}
