"""Group-wise brain damage: the groups, the zero weights, and the removed channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunelab.errors import UserError
from prunelab.methods import Budget, GroupBrainDamage
from prunelab.training import Training

pytestmark = pytest.mark.slow


def brain_damage(**settings: Any) -> GroupBrainDamage:
    return GroupBrainDamage(Budget(flops=0.5), **settings)


def test_one_step_shortens_each_offset_of_each_input_channel(small: Any, context: Any) -> None:
    method = brain_damage(strength=2.0, levels=["filter"])
    weight, stem = small.blocks[0].conv2.weight, small.stem.weight.detach().clone()
    expected = weight.detach().clone()
    for i in range(6):
        for u in range(3):
            for v in range(3):
                norm = float(expected[:, i, u, v].norm())
                expected[:, i, u, v] *= max(0.0, 1 - 0.05 * 2.0 / norm)
    method.prepare(context(method, small))
    method.after_step(context(method, small), dict.fromkeys(small.parameters(), 0.05))
    assert torch.allclose(weight, expected)
    assert torch.equal(small.stem.weight, stem)  # reads the images, which are not pruned


def test_a_channel_is_removed_only_if_all_its_offsets_are_zero(small: Any, context: Any) -> None:
    for block in small.blocks:
        block.conv2.weight.data[:, :3] = 0.0
        block.conv2.weight.data[:, 0, 1, 1] = 0.2  # one offset of channel 0 is left, larger than any other
    method = brain_damage(levels=["filter"], min_keep=0.0)
    plan = method.decide(context(method, small))
    for name in ("blocks.0.conv1", "blocks.1.conv1"):
        assert 0 in plan.kept[name]
        assert not {1, 2} & set(plan.kept[name])


def test_noise_is_unread_at_the_end_and_class_channels_are_kept(signals: Any) -> None:
    network, kept = signals(GroupBrainDamage(Budget(params=0.3), strength=0.1))
    read = network[5].weight.norm(dim=0)
    others = [channel for channel in range(10) if channel not in (2, 7)]
    assert kept == (2, 7)
    assert (read[others] == 0).all() and read[[2, 7]].min() > 0.5


def test_learning_makes_sparse_shapes(learn: Any, small: Any) -> None:
    logged = learn(brain_damage(strength=3.0), small, training=Training(epochs=2, lr=0.05))
    assert logged["learning/shape_sparsity"] > 0
    assert (small.blocks[0].conv2.weight.norm(dim=0) == 0).any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"levels": ["block"]}, "not defined for level block"), ({"strength": 0}, "strength=0")],
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        brain_damage(**settings)
