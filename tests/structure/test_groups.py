"""Groups: names, levels, order, and slices that cover every tensor exactly once."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab import ChannelGraph
from prunelab.models import build

IMAGES = torch.zeros(1, 3, 32, 32)
ROLES = {"producer", "gate", "depthwise", "scale", "shift", "bias", "statistic", "consumer", "other"}


def analysed(name: str, **arguments: Any) -> tuple[nn.Module, ChannelGraph]:
    model = build(name, 10, **arguments)
    return model, prunelab.analyze(model, IMAGES)


def test_a_cifar_resnet_has_three_stages_and_a_filter_group_in_every_block() -> None:
    _, graph = analysed("cifar_resnet20")
    filters = {f"layer{s}.{b}.conv1": 16 * 2 ** (s - 1) for s in (1, 2, 3) for b in range(3)}
    stages = {"layer1": 16, "layer2": 32, "layer3": 64}
    assert {group.name: group.size for group in graph.at({"filter"})} == filters
    assert {group.name: group.size for group in graph.at(["stage"])} == stages
    assert len(graph.groups) == 12
    assert [group.name for group in graph.frozen] == ["linear"]


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_a_stage_is_made_by_its_shortcut_and_its_blocks(shortcut: str) -> None:
    _, graph = analysed("cifar_resnet20", shortcut=shortcut)
    makers = [found.parameter for found in graph.group("layer2").producers]
    blocks = [f"layer2.{block}.conv2.weight" for block in range(3)]
    assert sorted(makers) == sorted(blocks + (["layer2.0.shortcut.0.weight"] if shortcut == "B" else []))
    readers = {found.parameter for found in graph.group("layer2").having("consumer")}
    inside = {f"layer2.{block}.conv1.weight" for block in (1, 2)} | {"layer3.0.conv1.weight"}
    assert readers == inside | ({"layer3.0.shortcut.0.weight"} if shortcut == "B" else set())


def test_a_bottleneck_resnet_has_two_filter_groups_in_every_block() -> None:
    model = build("resnet26", 10)
    graph = prunelab.analyze(model, IMAGES)
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in range(2)]
    assert {group.name for group in graph.at({"filter"})} == {
        "conv1", *(f"{block}.conv{number}" for block in blocks for number in (1, 2))
    }  # fmt: skip
    assert {group.name: group.size for group in graph.at({"stage"})} == {
        "layer1": 256, "layer2": 512, "layer3": 1024, "layer4": 2048
    }  # fmt: skip


def test_a_chain_has_filter_groups_in_forward_order() -> None:
    _, graph = analysed("cifar_vgg16_bn")
    sizes = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    assert [group.size for group in graph.groups] == sizes
    assert {group.level for group in graph.groups} == {"filter"}
    names = [
        module
        for module, layer in build("cifar_vgg16_bn", 10).named_modules()
        if isinstance(layer, nn.Conv2d)
    ]
    assert [group.name for group in graph.groups] == names


def test_inverted_residuals_have_wide_filter_groups_and_narrow_stages() -> None:
    _, graph = analysed("mobilenetv2_100")
    stages = {group.name: group.size for group in graph.at({"stage"})}
    assert sorted(stages.values()) == [24, 32, 64, 96, 160]
    for group in graph.at({"stage"}):
        assert all(found.parameter.endswith("conv_pwl.weight") for found in group.producers)
    depthwise = [group for group in graph.groups if group.having("depthwise")]
    assert len(depthwise) == 17
    assert all(len(group.producers) == 1 for group in depthwise)


NETWORKS: dict[str, dict[str, Any]] = {
    "cifar_resnet20": {},
    "cifar_mobilenetv2": {},
    "regnety_002": {},
    "densenet121": {"block_config": (2, 2), "growth_rate": 8},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_nfnet": {},
    "test_vit": {"img_size": 32},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_slices_are_sound(name: str) -> None:
    """Every slice fits its tensor and no position belongs to two channels or two groups."""
    model, graph = analysed(name, **NETWORKS[name])
    shapes = {key: tensor.shape for key, tensor in (*model.named_parameters(), *model.named_buffers())}
    owners: dict[tuple[str, int], list[int]] = defaultdict(list)
    for group in (*graph.groups, *graph.frozen):
        assert group.size >= 1
        assert group.producers or group.having("depthwise", "gate", "other")
        for found in group.slices:
            assert found.role in ROLES
            assert found.index.shape[0] == group.size
            assert found.index.dtype == np.int64
            owners[found.parameter, found.dim].extend(found.index.ravel().tolist())
    for (parameter, dim), places in owners.items():
        assert len(set(places)) == len(places), (parameter, dim)
        assert min(places) >= 0
        assert max(places) < shapes[parameter][dim]


@pytest.mark.parametrize("name", NETWORKS)
def test_names_are_unique_and_say_where(name: str) -> None:
    model, graph = analysed(name, **NETWORKS[name])
    groups = (*graph.groups, *graph.frozen)
    assert len({group.name for group in groups}) == len(groups)
    paths = {path for path, _ in model.named_modules()} | {key for key, _ in model.named_parameters()}
    assert all(group.name.partition("#")[0] in paths for group in groups)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_prunable_channel_is_made_somewhere_and_can_be_seen(name: str) -> None:
    _, graph = analysed(name, **NETWORKS[name])
    for group in graph.groups:
        assert group.frozen is None
        assert group.producers, group.name
        assert group.having("consumer"), group.name
        assert group.hook_points, group.name
        for found in group.hook_points:
            assert found.positions.shape[0] == group.size
            assert len(np.unique(found.positions)) == found.positions.size
            assert found.positions.max() < found.hook_point.width
    assert all(group.frozen for group in graph.frozen)


def test_both_kinds_of_exactness_are_told_apart(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(net.norm(net.second(torch.relu(net.first(x)))).mean((2, 3)))

    parts = {"first": nn.Conv2d(3, 8, 3), "second": nn.Conv2d(8, 6, 3), "norm": nn.GroupNorm(1, 6)}
    graph = prunelab.analyze(network(forward, **parts, last=nn.Linear(6, 2)), IMAGES)
    first, second = graph.groups
    assert (first.exact, first.inexact) == (True, None)
    assert (second.exact, second.inexact) == (False, "native_group_norm over channels (in norm)")


def test_channels_that_are_carried_differently_are_different_groups(network: Any) -> None:
    """A part of a convolution's output is added to a shortcut: only that part belongs to the stage."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        y = net.conv(torch.relu(x))
        return net.last(torch.cat([y[:, : x.shape[1]] + x, y[:, x.shape[1] :]], 1))

    parts = {"stem": nn.Conv2d(3, 8, 1), "conv": nn.Conv2d(8, 14, 1), "last": nn.Conv2d(14, 2, 1)}
    graph = prunelab.analyze(network(forward, **parts), IMAGES)
    assert sorted((group.level, group.size) for group in graph.groups) == [("filter", 6), ("stage", 8)]
    stage, rest = sorted(graph.groups, key=lambda group: -group.size)
    assert [found.index[0, 0] for found in rest.slices if found.parameter == "conv.weight"] == [8]
    assert {found.parameter for found in stage.producers} == {"stem.weight", "conv.weight"}
