"""Growing regularisation: lambda by hand before and after filters are picked, and the picked filters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods import Budget, GReg

pytestmark = pytest.mark.slow

HAND = {"growth": 0.1, "pick_growth": 0.01, "pick_limit": 0.02, "recover": -0.5, "interval": 2}


def greg(**settings: Any) -> GReg:
    return GReg(Budget(flops=0.6), **{**HAND, "levels": ["filter"], **settings})


def penalties(method: GReg, network: Any, context: Any, step: int) -> Tensor:
    """lambda of the filters of the first block in a step, from the gradients that the method adds."""
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    method.step = step
    method.before_step(context(method, network))
    assert not network.stem.weight.grad.any() and not network.blocks[0].conv2.weight.grad.any()
    weight = network.blocks[0].conv1.weight
    quotients = (weight.grad / weight.detach()).flatten(1)
    torch.testing.assert_close(quotients, quotients[:, :1].expand_as(quotients))
    return quotients[:, 0]


def with_lengths(network: Any, lengths: list[float]) -> None:
    """Filters of the first layers of both blocks with these l1 norms."""
    for block in network.blocks:
        weight = block.conv1.weight.data
        norms = weight.abs().sum(dim=(1, 2, 3), keepdim=True)
        weight.mul_(torch.tensor(lengths).view(-1, 1, 1, 1) / norms)


def test_greg_1_penalises_the_smallest_filters_from_the_start(small: Any, context: Any) -> None:
    with_lengths(small, [3.0, 1.0, 4.0, 1.5, 9.0, 2.0])
    method = greg(pick="before")
    method.prepare(context(method, small))
    for step, expected in ((0, 0.1), (1, 0.1), (2, 0.2), (5, 0.3)):
        found = penalties(method, small, context, step)
        torch.testing.assert_close(found[[1, 3, 5]], torch.full((3,), expected))
        assert not found[[0, 2, 4]].any()
    assert method.decide(context(method, small)).kept["blocks.0.conv1"] == (0, 2, 4)


def test_greg_2_penalises_all_filters_before_some_are_picked(small: Any, context: Any) -> None:
    with_lengths(small, [3.0, 1.0, 4.0, 1.5, 9.0, 2.0])
    method = greg()
    method.prepare(context(method, small))
    torch.testing.assert_close(penalties(method, small, context, 0), torch.full((6,), 0.01))
    with_lengths(small, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0])  # norms have changed when lambda reaches 0.02
    torch.testing.assert_close(penalties(method, small, context, 3), torch.full((6,), 0.02))
    with_lengths(small, [3.0, 1.0, 4.0, 1.5, 9.0, 2.0])  # later changes mean nothing
    found = penalties(method, small, context, 6)
    torch.testing.assert_close(found[[0, 2, 4]], torch.full((3,), 0.02 + 2 * 0.1))
    torch.testing.assert_close(found[[1, 3, 5]], torch.full((3,), -0.5))
    assert method.decide(context(method, small)).kept["blocks.0.conv1"] == (1, 3, 5)


def test_lambda_stops_at_its_limit_and_when_filters_are_small_enough(small: Any, context: Any) -> None:
    with_lengths(small, [1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    method = greg(pick="before", limit=0.25, enough=3.0)
    method.prepare(context(method, small))
    assert penalties(method, small, context, 2)[0] == pytest.approx(0.2)
    assert penalties(method, small, context, 4)[0] == pytest.approx(0.25)
    method = greg(pick="before", enough=3.0)
    method.prepare(context(method, small))
    penalties(method, small, context, 2)
    with_lengths(small, [0.5, 2.0, 0.5, 2.0, 0.5, 2.0])  # four times larger: stays at its value before
    assert penalties(method, small, context, 4)[0] == pytest.approx(0.2)
    assert penalties(method, small, context, 40)[0] == pytest.approx(0.2)


def test_a_shorter_training_has_a_larger_lambda(small: Any, context: Any) -> None:
    method = greg(pick="before", duration=100)
    method.steps = 50
    method.prepare(context(method, small))
    assert penalties(method, small, context, 0).max() == pytest.approx(0.2)  # twice 0.1
    assert penalties(method, small, context, 1).max() == pytest.approx(0.4)  # grows after 2 / 2 steps


@pytest.mark.parametrize("pick", ["before", "after"])
def test_picked_filters_vanish_and_are_removed(learn: Any, small: Any, context: Any, pick: str) -> None:
    method = GReg(Budget(flops=0.6), pick=pick, limit=20.0, levels=["filter"])
    logged = learn(method, small)
    kept = method.decide(context(method, small)).kept
    for number, block in enumerate(small.blocks):
        norms = block.conv1.weight.detach().abs().sum(dim=(1, 2, 3))
        left = torch.tensor(kept[f"blocks.{number}.conv1"])
        removed = torch.tensor(sorted(set(range(6)) - set(left.tolist())))
        assert norms[removed].max() < 0.1 * norms[left].min()
    assert logged["learning/picked"] == pytest.approx(0.5)
    assert logged["learning/quotient"] > 10


@pytest.mark.parametrize(
    "settings",
    [{"growth": 0.0}, {"limit": 0.001}, {"recover": 0.1}, {"interval": 0}, {"pick": "never"}],
)
def test_settings_out_of_range_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        greg(**settings)
