"""The zero-padded shortcut computes what F.pad computes, and its channel map is data that can be edited."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import pad

import prunelab
from prunelab.models import CifarResNet, ZeroPadShortcut


@pytest.mark.parametrize(("in_channels", "out_channels"), [(16, 32), (3, 6), (3, 4), (5, 5)])
@pytest.mark.parametrize(("stride", "side"), [(1, 8), (2, 8), (2, 7)])
def test_it_equals_the_usual_padding(in_channels: int, out_channels: int, stride: int, side: int) -> None:
    x = torch.randn(2, in_channels, side, side)
    before = (out_channels - in_channels) // 2
    after = out_channels - in_channels - before
    expected = pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, before, after))
    assert torch.equal(ZeroPadShortcut(in_channels, out_channels, stride)(x), expected)


def test_a_doubled_width_gets_a_quarter_of_zeros_on_each_side() -> None:
    assert ZeroPadShortcut(2, 4, 2).source.tolist() == [2, 0, 1, 2]


def test_entries_choose_input_channels_or_zeros() -> None:
    shortcut = ZeroPadShortcut(2, 4, 1)
    shortcut.source = torch.tensor([1, 2, 0])
    x = torch.randn(1, 2, 3, 3)
    assert torch.equal(shortcut(x), torch.stack([x[0, 1], torch.zeros(3, 3), x[0, 0]])[None])


def test_it_passes_gradients_to_its_channels() -> None:
    x = torch.randn(1, 2, 4, 4, requires_grad=True)
    ZeroPadShortcut(2, 4, 2)(x).sum().backward()
    expected = torch.zeros(1, 2, 4, 4)
    expected[:, :, ::2, ::2] = 1
    assert torch.equal(x.grad, expected)


def test_it_cannot_narrow() -> None:
    with pytest.raises(ValueError, match="cannot narrow 4 channels to 2"):
        ZeroPadShortcut(4, 2, 1)


def test_weights_without_the_map_load_strictly_and_keep_it() -> None:
    model, other = CifarResNet(1), CifarResNet(1)
    weights = {name: tensor for name, tensor in other.state_dict().items() if not name.endswith("source")}
    assert len(weights) == len(other.state_dict()) - 2
    before = list(weights)
    copy.deepcopy(model).load_state_dict(weights, strict=True)
    model.load_state_dict(weights, strict=True)
    assert list(weights) == before
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(model.eval()(x), other.eval()(x))


def test_an_edited_map_is_saved_and_loaded() -> None:
    edited = ZeroPadShortcut(2, 4, 2)
    edited.source = torch.tensor([2, 1, 0, 2])
    fresh = ZeroPadShortcut(2, 4, 2)
    fresh.load_state_dict(edited.state_dict())
    assert fresh.source.tolist() == [2, 1, 0, 2]


def test_the_stages_on_both_sides_of_it_can_be_pruned() -> None:
    model, images = CifarResNet(2, in_chans=1).eval(), torch.randn(2, 1, 8, 8)
    graph = prunelab.analyze(model, images)
    stages = [group for group in graph.groups if group.level == "stage"]
    assert [group.size for group in stages] == [16, 32, 64]
    # Kept are the even ones of 16 channels, and of 32 those with sources 0, 1 and 2 (at 8, 9 and 10) and two zeros.
    plan = graph.plan({stages[0].name: range(0, 16, 2), stages[1].name: [0, 8, 9, 10, 31]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert pruned.layer2[0].shortcut.source.tolist() == [8, 0, 8, 1, 8]
    assert prunelab.check(model, pruned, plan, images) < 1e-6
