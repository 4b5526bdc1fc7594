"""Structured sparsity learning: the groups of weights, the zero groups, and the removed channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunelab.errors import UserError
from prunelab.methods import SSL, Budget
from prunelab.training import Training

pytestmark = pytest.mark.slow


def ssl(**settings: Any) -> SSL:
    return SSL(Budget(flops=0.5), **settings)


def test_one_step_shortens_filters_then_the_weights_that_read_them(small: Any, context: Any) -> None:
    method = ssl(filters=2.0, channels=1.0, levels=["filter"])
    made, read = (getattr(small.blocks[0], name).weight for name in ("conv1", "conv2"))
    expected_made, expected_read = made.detach().clone(), read.detach().clone()
    for j in range(6):
        expected_made[j] *= max(0.0, 1 - 0.2 / float(expected_made[j].norm()))
        expected_read[:, j] *= max(0.0, 1 - 0.1 / float(expected_read[:, j].norm()))
    stem = small.stem.weight.detach().clone()
    method.prepare(context(method, small))
    method.after_step(context(method, small), dict.fromkeys(small.parameters(), 0.1))
    assert torch.allclose(made, expected_made)
    assert torch.allclose(read, expected_read)
    assert torch.equal(small.stem.weight, stem)  # a stage, and levels=[filter]


def test_a_channel_without_filter_or_reader_is_removed_first(small: Any, context: Any) -> None:
    for block in small.blocks:
        block.conv1.weight.data[:2] = 0.0
        block.conv2.weight.data[:, 2] = 0.0
    method = ssl(levels=["filter"], min_keep=0.0)
    plan = method.decide(context(method, small))
    for name in ("blocks.0.conv1", "blocks.1.conv1"):
        assert not {0, 1, 2} & set(plan.kept[name])


def test_a_block_with_a_zero_convolution_is_dropped(small: Any, context: Any) -> None:
    small.blocks[1].conv2.weight.data.zero_()
    method = SSL(Budget(flops=0.7), levels=["block"])
    assert method.decide(context(method, small)).dropped_blocks == ("blocks.1",)


def test_depth_is_a_group_of_each_whole_convolution(small: Any, context: Any) -> None:
    method = ssl(filters=0.0, channels=0.0, depth=1.0, levels=["filter", "block"])
    weight = small.blocks[1].conv1.weight
    expected = weight.detach() * (1 - 0.5 / float(weight.norm()))
    method.prepare(context(method, small))
    method.after_step(context(method, small), dict.fromkeys(small.parameters(), 0.5))
    assert torch.allclose(weight, expected)


def test_noise_is_unread_at_the_end_and_class_channels_are_kept(signals: Any) -> None:
    network, kept = signals(SSL(Budget(params=0.3), filters=0.0, channels=0.1))
    read = network[5].weight.norm(dim=0)
    others = [channel for channel in range(10) if channel not in (2, 7)]
    assert kept == (2, 7)
    assert (read[others] == 0).all() and read[[2, 7]].min() > 0.5


def test_learning_makes_exact_zeros(learn: Any, small: Any) -> None:
    logged = learn(ssl(filters=3.0, channels=3.0), small, training=Training(epochs=2, lr=0.05))
    zero = (small.blocks[0].conv1.weight.flatten(1).norm(dim=1) == 0).sum()
    assert zero > 0
    assert 0 < logged["learning/zero_groups"] <= 1


@pytest.mark.parametrize("strengths", [{"filters": -1.0}, {"filters": 0.0, "channels": 0.0, "depth": 0.0}])
def test_strengths_that_are_none_are_errors(strengths: dict[str, float]) -> None:
    with pytest.raises(UserError, match="strengths of a penalty"):
        ssl(**strengths)
