"""Whole groups as units: of group normalisations (exact only so), and on request of grouped convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import LayerNorm2d, StdConv2d
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


def head(channels: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)]


def normalised(groups: int, channels: int = 16) -> nn.Sequential:
    return nn.Sequential(conv(3, channels), nn.GroupNorm(groups, channels), nn.ReLU(), *head(channels))


# Group normalisation --------------------------------------------------------------------------------------


def test_a_group_normalisation_of_many_groups_loses_whole_ones_exactly(exact: Callable[..., Any]) -> None:
    pruning = exact(normalised(8), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}
    assert pruning.graph.group("0").producers[0].index.tolist() == [[2 * n, 2 * n + 1] for n in range(8)]
    left, norm = pruning.plan.widths["0"][1], pruning.model[1]
    assert (norm.num_groups, norm.num_channels, len(norm.weight)) == (left, 2 * left, 2 * left)


def test_one_of_few_groups_is_removed_only_on_request(
    exact: Callable[..., Any], inexact: Callable[..., Any]
) -> None:
    """A quarter of the channels at once is coarse: the same positions of all groups are removed, unless it must be
    exact."""
    assert inexact(normalised(4), IMAGES).groups == {"0": ("filter", 4)}
    assert set(inexact(normalised(2), IMAGES).inexact) == {"0"}
    for groups in (2, 4):
        pruning = exact(normalised(groups), IMAGES, exact=True)
        assert pruning.groups == {"0": ("filter", groups)}
        assert pruning.model[1].num_groups == pruning.plan.widths["0"][1]


def test_a_single_group_remains_inexact(inexact: Callable[..., Any], exact: Callable[..., Any]) -> None:
    assert inexact(normalised(1), IMAGES).groups == {"0": ("filter", 16)}
    pruning = exact(normalised(1), IMAGES, exact=True)
    assert pruning.groups == {}
    assert pruning.frozen == {"0": "not exact: native_group_norm over channels"}


def test_a_residual_stream_keeps_the_groups_of_all_its_normalisations(
    exact: Callable[..., Any], network: Any
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        x = x + net.conv(F.relu(net.fine(x)))
        return net.head(net.coarse(x))

    norms = {"fine": nn.GroupNorm(16, 32), "coarse": nn.GroupNorm(8, 32)}
    model = network(forward, stem=conv(3, 32), conv=conv(32, 32), head=nn.Sequential(*head(32)), **norms)
    pruning = exact(model, IMAGES)
    ((_, (level, size)),) = pruning.groups.items()
    assert (level, size) == ("stage", 8)
    left = pruning.model.coarse.num_groups
    assert (pruning.model.fine.num_groups, pruning.model.fine.num_channels) == (2 * left, 4 * left)


def test_a_normalisation_used_twice_has_one_number_of_groups(exact: Callable[..., Any]) -> None:
    norm = nn.GroupNorm(8, 16, affine=False)
    pruning = exact(nn.Sequential(conv(3, 16), norm, conv(16, 16), norm, *head(16)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}
    assert pruning.model[0].out_channels == pruning.model[2].out_channels == 2 * norm_groups(pruning.model)


def norm_groups(model: nn.Module) -> int:
    return next(module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm))


def test_channels_tied_by_a_grouped_convolution_are_removed_by_positions(inexact: Callable[..., Any]) -> None:
    """Place i of every group and every channel of a group: all would be one."""
    network = nn.Sequential(conv(3, 16), nn.GroupNorm(8, 16), nn.ReLU(), conv(16, 8, groups=8), *head(8))
    pruning = inexact(network, IMAGES)
    assert pruning.groups["0"] == ("filter", 2)
    assert pruning.model[1].num_groups == 8


def test_another_inexact_operator_leaves_the_finer_division(inexact: Callable[..., Any]) -> None:
    norm = LayerNorm2d(128)
    coarse = nn.Sequential(conv(3, 128), nn.GroupNorm(8, 128), norm, nn.ReLU(), *head(128))
    assert inexact(coarse, IMAGES).groups == {"0": ("filter", 16)}  # places
    fine = nn.Sequential(conv(3, 128), nn.GroupNorm(32, 128), norm, nn.ReLU(), *head(128))
    assert inexact(fine, IMAGES).groups == {"0": ("filter", 32)}  # groups


class WritesItOut(nn.GroupNorm):
    """Does not read the attribute that would have to change."""

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 8, self.weight, self.bias)


def test_a_number_of_groups_that_is_written_out_freezes(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        conv(3, 16), nn.ReLU(), conv(16, 64), WritesItOut(8, 64), nn.ReLU(), conv(64, 8), *head(8)
    )
    pruning = exact(network, IMAGES)
    assert pruning.groups == {"0": ("filter", 16), "5": ("filter", 8)}
    assert list(pruning.frozen) == ["2"]
    assert pruning.frozen["2"].startswith("native_group_norm is at a constant position")


# Grouped convolutions -------------------------------------------------------------------------------------


def test_a_grouped_convolution_loses_whole_groups_on_request(exact: Callable[..., Any]) -> None:
    network = nn.Sequential(
        conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 12, groups=4), nn.BatchNorm2d(12), *head(12)
    )
    pruning = exact(network, IMAGES, cardinality=True)
    assert pruning.groups == {"0": ("filter", 4)}
    slices = {(found.parameter, found.dim): found.index.tolist() for found in pruning.graph.groups[0].slices}
    assert slices["0.weight", 0] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert slices["3.weight", 0] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert ("3.weight", 1) not in slices
    left, grouped = pruning.plan.widths["0"][1], pruning.model[3]
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (left, 2 * left, 3 * left)
    assert tuple(grouped.weight.shape) == (3 * left, 2, 3, 3)


def test_the_last_group_is_an_ordinary_convolution(prune: Callable[..., Any]) -> None:
    network = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), nn.ReLU(), *head(12))
    pruning = prune(network, IMAGES, kept={"0": [2]}, cardinality=True)
    assert pruning.error < 1e-9
    assert pruning.model[2].groups == 1
    assert torch.equal(pruning.model[2].weight, pruning.original[2].weight[6:9])


def test_grouped_convolutions_after_one_another_share_their_units(exact: Callable[..., Any]) -> None:
    """12 channels in groups of 3 and of 2: six channels are the least that both can lose."""
    network = nn.Sequential(
        conv(3, 12), nn.ReLU(), conv(12, 12, groups=4), nn.ReLU(), conv(12, 12, groups=6), *head(12)
    )
    pruning = exact(network, IMAGES, cardinality=True)
    assert pruning.groups == {"0": ("filter", 2)}
    assert (pruning.model[2].groups, pruning.model[4].groups) == (2, 3)


def test_shuffled_groups_lose_the_same_positions(exact: Callable[..., Any]) -> None:
    """A channel shuffle connects each group with every group of the next convolution: nothing could be removed."""
    network = nn.Sequential(
        conv(3, 16),
        conv(16, 16, groups=4),
        nn.ChannelShuffle(4),
        conv(16, 16, groups=4),
        nn.ReLU(),
        *head(16),
    )
    pruning = exact(network, IMAGES, cardinality=True)
    assert pruning.groups == exact(copy.deepcopy(network), IMAGES).groups
    assert pruning.model[1].groups == 4


@pytest.mark.slow
def test_cardinality_of_a_resnext(exact: Callable[..., Any]) -> None:
    model = timm.create_model("resnext50_32x4d", num_classes=4, layers=[1, 1, 1, 1])
    pruning = exact(model, torch.randn(1, 3, 32, 32), cardinality=True)
    sizes = [size for level, size in pruning.groups.values() if level == "filter"]
    assert sizes == [64, 32, 32, 32, 32]
    assert [block[0].conv2.groups for block in (pruning.model.layer1, pruning.model.layer4)] == [
        pruning.plan.widths[f"layer{number}.0.conv1"][1] for number in (1, 4)
    ]


# Exactness on request -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_nfnet"])
def test_inexact_groups_are_not_pruned_on_request(lively: Callable[..., nn.Module], name: str) -> None:
    images = torch.randn(2, 3, 160, 160)
    model = lively(timm.create_model(name), images)
    normal, exact = prunelab.analyze(model, images[:1]), prunelab.analyze(model, images[:1], exact=True)
    assert [group.name for group in exact.groups] == [group.name for group in normal.groups if group.exact]
    left = {group.name: group.frozen for group in exact.frozen}
    for group in normal.groups:
        if not group.exact:
            assert left[group.name] == f"not exact: {group.inexact}"
    assert [block.name for block in exact.blocks] == [block.name for block in normal.blocks]
    plan = exact.plan({group.name: range(group.size // 2) for group in exact.groups})
    assert prunelab.check(model, prunelab.apply(copy.deepcopy(model), plan), plan, images) < 1e-9


def test_only_channels_without_a_standardised_reader_are_exact(
    exact: Callable[..., Any],
) -> None:
    network = nn.Sequential(
        StdConv2d(3, 8, 3), nn.ReLU(), StdConv2d(8, 6, 3), nn.ReLU(), conv(6, 5), nn.ReLU(), *head(5)
    )
    pruning = exact(network, IMAGES, exact=True)
    assert pruning.groups == {"2": ("filter", 6), "4": ("filter", 5)}
    assert set(pruning.frozen) == {"0"}
