"""Normalisations: exact per channel; over channels the groups are marked inexact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import LayerNorm2d, ScaledStdConv2d, StdConv2d
from timm.layers.grn import GlobalResponseNorm
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.structure.surgery.candidate import candidate

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def global_response_norm(channels: int) -> nn.Module:
    """ConvNeXt V2's; its scale is initially zero, which would make it the identity."""
    norm = GlobalResponseNorm(channels, channels_last=False)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.InstanceNorm2d(8, affine=True),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.GroupNorm(8, 8),
    ],
    ids=[
        "batch",
        "batch without affine",
        "batch without statistics",
        "instance",
        "tracked instance",
        "group of one",
    ],
)
def test_a_statistic_for_each_channel_is_exact(exact: Callable[..., Any], norm: nn.Module) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), norm, nn.ReLU(), conv(8, 3)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}
    assert pruning.inexact == {}


@pytest.mark.parametrize(
    ("norm", "size", "reason"),
    [
        (nn.GroupNorm(2, 8), 4, "native_group_norm"),
        (nn.GroupNorm(1, 8), 8, "native_group_norm"),
        (LayerNorm2d(8), 8, "native_layer_norm"),
        (nn.Softmax(1), 8, "_softmax"),
        (nn.LogSoftmax(1), 8, "_log_softmax"),
        (global_response_norm(8), 8, "statistic over channels"),
    ],
    ids=["group", "one group", "layer", "softmax", "log softmax", "global response"],
)
def test_a_statistic_over_channels_is_inexact(
    inexact: Callable[..., Any], norm: nn.Module, size: int, reason: str
) -> None:
    pruning = inexact(nn.Sequential(conv(3, 8), norm, conv(8, 6), nn.ReLU(), conv(6, 3)), IMAGES)
    assert pruning.groups == {"0": ("filter", size), "2": ("filter", 6)}
    assert set(pruning.inexact) == {"0"}
    assert reason in pruning.inexact["0"]
    assert [len(found.index) for found in pruning.graph.group("0").producers] == [size]


def test_a_window_over_neighbouring_channels_freezes_them(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.LocalResponseNorm(3), conv(8, 6), conv(6, 3)), IMAGES)
    assert pruning.groups == {"2": ("filter", 6)}
    assert set(pruning.frozen) == {"0"}


def test_groups_of_a_group_norm_stay_equal(inexact: Callable[..., Any]) -> None:
    pruning = inexact(nn.Sequential(conv(3, 8), nn.GroupNorm(2, 8), nn.ReLU(), conv(8, 3)), IMAGES)
    (producer,) = pruning.graph.group("0").producers
    assert producer.index.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    norm = pruning.model[1]
    assert (norm.num_groups, norm.num_channels) == (2, 2 * pruning.plan.widths["0"][1])


def test_a_layer_norm_between_linear_layers(inexact: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3))
    pruning = inexact(network, torch.randn(4, 5))
    assert pruning.groups == {"0": ("filter", 8)}
    assert pruning.model[1].normalized_shape == (pruning.plan.widths["0"][1],)


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Qiao et al. 2019), written out."""

    def forward(self, x: Tensor) -> Tensor:
        mean, spread = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (spread + 1e-5), self.bias, self.stride, self.padding)


@pytest.mark.parametrize("layer", [StandardisedConv, StdConv2d, ScaledStdConv2d])
@pytest.mark.parametrize("kernel", [1, 3])
def test_weight_standardisation_is_inexact_for_the_channels_it_reads(
    inexact: Callable[..., Any], layer: type[nn.Conv2d], kernel: int
) -> None:
    network = nn.Sequential(layer(3, 8, kernel), nn.ReLU(), layer(8, 6, kernel), nn.ReLU(), *head(6))
    pruning = inexact(network, IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "2": ("filter", 6)}
    assert set(pruning.inexact) == {"0"}
    assert ("0.weight", 0, "producer", 1) in pruning.slices("0")
    assert ("2.weight", 1, "consumer", 1) in pruning.slices("0")


def test_channels_that_only_standardised_filters_make_are_exact(prune: Callable[..., Any]) -> None:
    network = nn.Sequential(StandardisedConv(3, 8, 3), nn.ReLU(), conv(8, 6), nn.ReLU(), *head(6))
    assert prune(network, IMAGES).error < 1e-9


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_weight_norm_of_both_kinds(inexact: Callable[..., Any]) -> None:
    for wrap in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm):
        network = nn.Sequential(wrap(conv(3, 8)), nn.ReLU(), wrap(conv(8, 6)), nn.ReLU(), *head(6))
        with torch.no_grad():
            network(
                IMAGES
            )  # the older kind stores its last weight, which can only be copied without a gradient
        pruning = inexact(network, IMAGES)
        assert list(pruning.groups.values()) == [("filter", 8), ("filter", 6)]
        assert list(pruning.inexact.values()) == ["_weight_norm_interface over channels"]


def test_normalised_vectors_are_inexact(inexact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(F.normalize(F.relu(net.conv(x)).mean((2, 3)), dim=1))

    pruning = inexact(network(forward, conv=conv(3, 8), last=nn.Linear(8, 3)), IMAGES)
    assert set(pruning.inexact) == {"conv"}


@pytest.mark.parametrize(
    "wrap", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm], ids=["new", "old"]
)
def test_spectral_normalisation_is_inexact(inexact: Callable[..., Any], wrap: Any) -> None:
    """After ``apply`` the norms of the smaller weights are one again, in evaluation mode too."""
    network = nn.Sequential(wrap(conv(3, 8)), nn.ReLU(), wrap(conv(8, 6)), nn.ReLU(), conv(6, 2))
    for _ in range(200):  # each pass estimates the norms once
        network(IMAGES)
    network.requires_grad_(False)
    network.eval()(IMAGES)  # the old form stores its weight, without a graph now
    pruning = inexact(network, IMAGES)
    assert set(pruning.inexact) == {"0", "2"}
    pruning.model(IMAGES)
    for layer in (pruning.model[0], pruning.model[2]):
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), 2)
        assert abs(float(norm) - 1) < 0.05
        assert layer.weight.shape[0] < 8


def test_a_candidate_is_normalised_as_the_pruned_network(random_plan: Callable[..., Any]) -> None:
    network = nn.Sequential(nn.utils.parametrizations.spectral_norm(conv(3, 8)), nn.ReLU(), conv(8, 2)).eval()
    plan = random_plan(prunelab.analyze(network, IMAGES))
    with torch.no_grad():
        expected = prunelab.apply(copy.deepcopy(network), plan)(IMAGES)
        assert torch.equal(candidate(network, plan)(IMAGES), expected)
