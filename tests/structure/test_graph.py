"""ChannelGraph: looking groups up, and the messages for plans that cannot be made."""

from __future__ import annotations

from xml.etree import ElementTree

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


MASK = [False, True, True, *[False] * 12, True]


@pytest.mark.parametrize(
    "mask",
    [
        MASK,
        tuple(MASK),
        np.array(MASK),
        torch.tensor(MASK),
        [np.bool_(each) for each in MASK],
        list(torch.tensor(MASK)),
        np.arange(16) % 16 != 0,
    ],
    ids=lambda mask: type(mask).__name__,
)
def test_masks_keep_what_is_true(graph: ChannelGraph, mask: object) -> None:
    expected = tuple(np.flatnonzero(np.array([bool(each) for each in mask])))
    assert graph.plan({"layer1": mask}).kept["layer1"] == expected


@pytest.mark.parametrize("mask", [[True, False], [False, True], [True, True]])
def test_a_mask_of_a_group_of_two_is_not_read_as_indices(mask: list[bool]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Conv2d(2, 4, 3))
    plan = prunelab.analyze(model, torch.zeros(1, 3, 8, 8)).plan({"0": mask})
    assert plan.kept["0"] == tuple(number for number in (0, 1) if mask[number])


@pytest.mark.parametrize(
    ("kept", "dropped", "words"),
    [
        ({"layer9": [0]}, [], "no prunable group 'layer9'"),
        ({"linear": [0]}, [], "no prunable group 'linear'"),
        ({"layer1": []}, [], "layer1: at least one channel"),
        ({"layer1": [0, 1, 0]}, [], "layer1: channel 0 is named twice"),
        ({"layer1": [1, 0, 1, 1]}, [], "give booleans"),
        ({"layer1": [0, 16]}, [], "channels 0 to 15; 16 is not one"),
        ({"layer1": [-1, 3]}, [], "channels 0 to 15; -1 is not one"),
        ({"layer1": [0.5, 3]}, [], "layer1.*float64"),
        ({"layer1": [1.0, 0.0]}, [], "layer1.*float64"),
        ({"layer1": torch.ones(16)}, [], "layer1.*float32"),
        ({"layer1": ["0", "1"]}, [], "layer1"),
        ({"layer1": [None]}, [], "layer1"),
        ({"layer1": [[0], [1, 2]]}, [], "layer1.*flat"),
        ({"layer1": np.ones((2, 8), dtype=bool)}, [], "layer1.*2 dimensions"),
        ({"layer1": [True] * 15}, [], "mask has 15 entries.*16"),
        ({"layer1": [False] * 16}, [], "layer1: at least one channel"),
        ({"layer1": [True, False, 3]}, [], "layer1.*mixes"),
        ({"layer1": [True, np.int64(1)]}, [], "layer1.*mixes"),
        ({"layer1": 3}, [], "layer1: 3 is not a list"),
        ({"layer1": True}, [], "layer1: True is not a list"),
        ({"layer1": torch.tensor(3)}, [], "layer1.*0 dimensions"),
        ({"layer1": "012"}, [], "layer1.*not a list"),
        ({"layer1": None}, [], "layer1: None"),
        ({}, ["layer1.9"], "no residual block 'layer1.9'"),
        ({}, ["layer2.0"], "no residual block 'layer2.0'"),
        ({}, "layer1.1", "layer1.1"),
    ],
)
def test_plans_that_cannot_be_made(graph: ChannelGraph, kept: dict, dropped: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        graph.plan(kept, dropped)


def test_a_network_without_blocks_has_a_message() -> None:
    graph = prunelab.analyze(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)), torch.zeros(1, 3, 8, 8))
    with pytest.raises(UserError, match="no residual block"):
        graph.plan({}, ["1"])


def test_a_structure_prints_in_one_line(graph: ChannelGraph) -> None:
    groups = "12 channel groups (3 stage, 9 filter), 7 blocks, 1 frozen group"
    assert str(graph) == repr(graph) == f"ChannelGraph: {groups}, 81.1 MFLOPs, 270 k parameters"
    assert str(prunelab.analyze(nn.ReLU(), torch.zeros(1, 3, 8, 8))).endswith("0 FLOPs, 0 parameters")


def test_a_notebook_shows_a_table(graph: ChannelGraph) -> None:
    table = graph._repr_html_()
    root = ElementTree.fromstring(f"<div>{table}</div>")
    cells = ["".join(cell.itertext()) for cell in root.iter("td")]
    for group in graph.groups:
        assert group.name in cells
    for block in graph.blocks:
        assert block.name in cells
    assert "output of the network" in cells
    start = cells.index("layer1")
    assert cells[start : start + 5] == ["layer1", "stage", "16", "38.9%", "7.0%"]


def test_names_in_a_notebook_are_text() -> None:
    """No name in a network becomes markup."""
    model = nn.Sequential()
    model.add_module("<b onclick=x>", nn.Conv2d(3, 4, 3))
    model.add_module("last", nn.Conv2d(4, 2, 3))
    table = prunelab.analyze(model, torch.zeros(1, 3, 8, 8))._repr_html_()
    assert "<b" not in table
    assert "&lt;b onclick=x&gt;" in table
