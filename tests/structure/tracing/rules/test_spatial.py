"""Pooling, resizing, padding and rearrangements of places leave channels alone, or tie what they rearrange."""

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
def test_places_change_and_channels_stay(exact: Callable[..., Any], layer: nn.Module) -> None:
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


def test_padded_channels_stay(exact: Callable[..., Any], network: Any) -> None:
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
