"""Pooling, resizing, padding and rearrangements of places do not change channels, or tie the rearranged ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(3, 2, 1),
        nn.AdaptiveAvgPool2d(3),
        nn.AdaptiveMaxPool2d(3),
        nn.LPPool2d(2, 2),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.ZeroPad2d(1),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.Dropout2d(0.5),
        nn.Identity(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_rearrangements_of_places_keep_channels(exact: Callable[..., Any], layer: nn.Module) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), layer, nn.ReLU(), conv(8, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}


def test_pixel_shuffle_takes_four_filters_for_each_channel(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 24), nn.PixelShuffle(2), nn.ReLU(), conv(6, 3))
    pruning = exact(network, IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "2": ("filter", 6)}
    (producer,) = pruning.graph.group("2").producers
    assert producer.index.tolist() == [[4 * k, 4 * k + 1, 4 * k + 2, 4 * k + 3] for k in range(6)]


def test_a_super_resolution_network_ends_in_its_pixel_shuffle(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12), nn.PixelShuffle(2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}
    assert {group.name: group.frozen for group in pruning.graph.frozen} == {"2": "output of the network"}


def test_pixel_unshuffle_makes_four_channels_of_one(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(3, 8), nn.ReLU(), nn.PixelUnshuffle(2), conv(32, 6), nn.ReLU(), conv(6, 2))
    pruning = exact(network, IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "3": ("filter", 6)}
    assert ("3.weight", 1, "consumer", 4) in pruning.slices("0")


def test_padded_channels_are_kept(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(F.relu(F.pad(net.conv(x), (0, 0, 0, 0, 2, 3))))

    pruning = exact(network(forward, conv=conv(3, 8), out=conv(13, 4)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8)}
    (consumer,) = pruning.graph.group("conv").having("consumer")
    assert consumer.index[:, 0].tolist() == list(range(2, 10))
    assert pruning.model.out.in_channels == pruning.plan.widths["conv"][1] + 5


def test_max_unpooling_ties_what_was_pooled_and_what_is_spread(
    exact: Callable[..., Any], network: Any
) -> None:
    """SegNet: the indices of the encoder place the values of the decoder."""

    def forward(net: Any, x: Tensor) -> Tensor:
        pooled, indices = F.max_pool2d(F.relu(net.encode(x)), 2, return_indices=True)
        return net.out(F.max_unpool2d(net.decode(pooled), indices, 2))

    parts = {"encode": nn.Conv2d(3, 8, 3, padding=1), "decode": nn.Conv2d(8, 8, 1), "out": nn.Conv2d(8, 3, 1)}
    groups = exact(network(forward, **parts), torch.randn(2, 3, 8, 8)).groups
    assert [size for _, size in groups.values()] == [8]


class Widening(nn.Module):
    """A block that doubles the channels; ``widen(narrow, wide)`` adds channels to its shortcut."""

    def __init__(self, widen: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.inner, self.outer, self.head = conv(3, 6), conv(6, 8), conv(8, 12), conv(12, 2)
        self.widen = widen

    def forward(self, images: Tensor) -> Tensor:
        narrow = self.stem(images).relu()
        wide = self.outer(self.inner(narrow).relu())
        return self.head((wide + self.widen(narrow, wide)).relu())


def _missing(narrow: Tensor, wide: Tensor) -> int:
    return wide.shape[1] - narrow.shape[1]


def _zeros(narrow: Tensor, channels: int) -> Tensor:
    return narrow.new_zeros(len(narrow), channels, *narrow.shape[2:])


@pytest.mark.parametrize(
    ("widen", "added"),
    [
        (lambda x, y: F.pad(x, (0, 0, 0, 0, 0, _missing(x, y))), 6),
        (lambda x, y: torch.cat([x, _zeros(x, _missing(x, y))], 1), 6),
        (lambda x, y: torch.cat([_zeros(x, _missing(x, y)), x], 1), 6),
        # Half of them on each side: both sides lose equally many.
        (lambda x, y: F.pad(x, (0, 0, 0, 0, _missing(x, y) // 2, _missing(x, y) - _missing(x, y) // 2)), 3),
        (lambda x, y: torch.cat([_zeros(x, _missing(x, y) // 2), x, _zeros(x, _missing(x, y) // 2)], 1), 3),
    ],
    ids=["pad", "cat", "cat_before", "pad_both", "cat_both"],
)
def test_a_shortcut_with_zeros(exact: Callable[..., Any], widen: Callable[..., Tensor], added: int) -> None:
    pruning = exact(Widening(widen), IMAGES)
    sizes = {name: size for name, (_, size) in pruning.groups.items()}
    assert sizes == {"stem": 6, "inner": 8, "outer": added}


@pytest.mark.parametrize(
    "widen",
    [
        lambda x, y: F.pad(x, (0, 0, 0, 0, 0, 6)),
        lambda x, y: torch.cat([x, _zeros(x, 6)], 1),
        lambda x, y: F.pad(x, (0, 0, 0, 0, 2, _missing(x, y) - 2)),
        lambda x, y: torch.cat([_zeros(x, 2), x, _zeros(x, _missing(x, y) - 2)], 1),
        lambda x, y: F.pad(x, (0, 0, 0, 0, _missing(x, y) // 3, _missing(x, y) - _missing(x, y) // 3)),
    ],
    ids=["pad", "cat", "pad_both", "cat_both", "pad_third"],
)
def test_zeros_whose_number_does_not_follow(exact: Callable[..., Any], widen: Callable[..., Tensor]) -> None:
    pruning = exact(Widening(widen), IMAGES)
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"stem": 6, "inner": 8}
    assert set(pruning.frozen) == {"outer"} or len(pruning.frozen) == 2


class Padded(nn.Module):
    """A shortcut whose padding is stored."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = (0, 0, 0, 0, 0, 6)

    def forward(self, maps: Tensor, wide: Tensor) -> Tensor:
        return F.pad(maps, self.pad)


def test_a_stored_padding_follows(exact: Callable[..., Any]) -> None:
    pruning = exact(Widening(Padded()), IMAGES)
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"stem": 6, "inner": 8, "outer": 6}
    assert pruning.model.widen.pad[5] == len(pruning.plan.kept["outer"])


def test_widenings_one_after_the_other(exact: Callable[..., Any], network: Callable[..., nn.Module]) -> None:
    """As in PyramidNet: each block adds two channels."""

    def forward(self: Any, images: Tensor) -> Tensor:
        maps = self.stem(images).relu()
        for layer in self.layers:
            wide = layer(maps)
            maps = (F.pad(maps, (0, 0, 0, 0, 0, _missing(maps, wide))) + wide).relu()
        return self.head(maps)

    layers = nn.ModuleList([conv(6, 8), conv(8, 10), conv(10, 12)])
    pruning = exact(network(forward, stem=conv(3, 6), layers=layers, head=conv(12, 2)), IMAGES)
    assert sorted(size for _, size in pruning.groups.values()) == [2, 2, 2, 6]
    assert pruning.frozen == {}
