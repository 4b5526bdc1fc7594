"""Sparse learning of groups: the added gradients by hand, and channels that vanish."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from prunelab.errors import UserError
from prunelab.methods import Budget, DepGraphSparse

pytestmark = pytest.mark.slow


def made(**settings: Any) -> DepGraphSparse:
    return DepGraphSparse(Budget(flops=0.5), **settings)


def prepared(method: DepGraphSparse, network: Any, context: Any) -> None:
    method.prepare(context(method, network))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.before_step(context(method, network))


def test_added_gradients_by_hand(small: Any, context: Any) -> None:
    block = small.blocks[0]
    tensors = (block.conv1.weight, block.norm1.weight, block.conv2.weight)
    for tensor in tensors:
        tensor.data.zero_()
    lengths = torch.tensor(
        [1.0, 2.0, 3.0, 4.0, 5.0, 5.0]
    )  # 1: gamma 16, 3: gamma 2^(4 * 2 / 4) = 4, 5: gamma 1
    block.conv1.weight.data[:, 0, 0, 0] = 0.6 * lengths
    block.conv2.weight.data[0, :, 0, 0] = 0.8 * lengths
    prepared(made(strength=0.1, levels=["filter"]), small, context)
    gamma = torch.tensor([16.0, 8.0, 4.0, 2.0, 1.0, 1.0])
    torch.testing.assert_close(block.conv1.weight.grad[:, 0, 0, 0], 0.06 * gamma * lengths)
    torch.testing.assert_close(block.conv2.weight.grad[0, :, 0, 0], 0.08 * gamma * lengths)
    assert not small.stem.weight.grad.any()  # a stage, and levels=[filter]


def test_a_weight_of_two_groups_decays_for_both(small: Any, context: Any) -> None:
    prepared(made(strength=1.0, alpha=0.0), small, context)
    block = small.blocks[0]
    torch.testing.assert_close(block.conv1.weight.grad, 2 * block.conv1.weight.detach())  # reads a stage
    torch.testing.assert_close(block.norm1.weight.grad, block.norm1.weight.detach())
    torch.testing.assert_close(small.head.weight.grad, small.head.weight.detach())


def test_equal_norms_have_equal_decay(small: Any, context: Any) -> None:
    for parameter in small.parameters():
        parameter.data.fill_(0.5)
    prepared(made(strength=1.0, levels=["filter"]), small, context)
    norm = small.blocks[1].norm1.weight
    torch.testing.assert_close(norm.grad, norm.detach())


def test_noise_vanishes_and_class_channels_are_kept(signals: Any) -> None:
    method = DepGraphSparse(Budget(params=0.3), strength=0.02)
    network, kept = signals(method)
    read = network[5].weight.norm(dim=0)
    others = [channel for channel in range(10) if channel not in (2, 7)]
    assert kept == (2, 7)
    assert read[others].max() < 0.1 * read[[2, 7]].min()


def test_the_log_counts_small_channels(learn: Any, small: Any) -> None:
    small.blocks[0].conv1.weight.data[:2] *= 1e-3
    small.blocks[0].norm1.weight.data[:2] *= 1e-3
    small.blocks[0].conv2.weight.data[:, :2] *= 1e-3
    logged = learn(made(strength=1e-6, levels=["filter"]), small)
    assert logged["learning/small"] == pytest.approx(2 / 12)


@pytest.mark.parametrize("settings", [{"strength": 0.0}, {"alpha": -1.0}])
def test_settings_out_of_range_are_errors(settings: dict[str, float]) -> None:
    with pytest.raises(UserError, match="use"):
        made(**settings)
