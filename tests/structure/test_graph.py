"""ChannelGraph: looking groups up, and the messages for plans that cannot be made."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import prunelab
from prunelab import ChannelGraph
from prunelab.errors import UserError
from prunelab.models import build


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    return prunelab.analyze(build("cifar_resnet20", 10), torch.zeros(1, 3, 32, 32))


def test_groups_by_level_keep_their_order(graph: ChannelGraph) -> None:
    both = graph.at({"stage", "filter"})
    assert both == graph.groups
    assert [group for group in both if group.level == "stage"] == list(graph.at(["stage"]))
    assert graph.at([]) == graph.at({"block"}) == ()


def test_a_group_by_its_name(graph: ChannelGraph) -> None:
    assert graph.group("layer2").size == 32
    with pytest.raises(UserError, match=r"no prunable group 'layr2'.*layer2"):
        graph.group("layr2")
    with pytest.raises(UserError, match="no prunable group 'linear'"):
        graph.group("linear")


@pytest.mark.parametrize(
    "kept", [range(3), (0, 1, 2), np.array([2, 0, 1]), torch.tensor([0, 1, 2]), [np.int32(0), 1, 2]]
)
def test_kept_channels_in_any_container(graph: ChannelGraph, kept: object) -> None:
    assert graph.plan({"layer1": kept}).kept["layer1"] == (0, 1, 2)


@pytest.mark.parametrize(
    ("kept", "dropped", "words"),
    [
        ({"layer9": [0]}, [], "no prunable group 'layer9'"),
        ({"linear": [0]}, [], "no prunable group 'linear'"),
        ({"layer1": []}, [], "layer1: at least one channel"),
        ({"layer1": [0, 1, 0]}, [], "layer1: a channel is named twice"),
        ({"layer1": [0, 16]}, [], "channels 0 to 15; 16 is not one"),
        ({"layer1": [-1, 3]}, [], "channels 0 to 15; -1 is not one"),
        ({"layer1": [0.5, 3]}, [], "layer1"),
        ({}, ["layer1.9"], "no residual block 'layer1.9'"),
        ({}, ["layer2.0"], "no residual block 'layer2.0'"),
        ({}, "layer1.1", "layer1.1"),
    ],
)
def test_plans_that_cannot_be_made(graph: ChannelGraph, kept: dict, dropped: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        graph.plan(kept, dropped)


def test_a_network_without_blocks_says_so() -> None:
    graph = prunelab.analyze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="no residual block"):
        graph.plan({}, ["1"])
