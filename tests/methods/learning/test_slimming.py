"""Network slimming: the penalty by hand, removed channels, and every round of a run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import BNGamma, Budget, Slimming
from prunelab.training import Training

pytestmark = pytest.mark.slow


def slimming(**settings: Any) -> Slimming:
    return Slimming(Budget(flops=0.5), **settings)


def test_the_penalty_adds_its_subgradient_to_every_gamma_and_to_nothing_else(
    small: Any, context: Any
) -> None:
    method = slimming(strength=0.01)
    for parameter in small.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    small.norm.weight.data = torch.tensor([1.0, -3.0, 0.0, 0.5, -0.1, 2.0])
    method.before_step(context(method, small))
    assert small.norm.weight.grad.tolist() == pytest.approx([2.01, 1.99, 2.0, 2.01, 1.99, 2.01])
    assert (small.norm.bias.grad == 2).all()
    assert (small.stem.weight.grad == 2).all()


def test_one_threshold_over_all_layers_cuts_the_smallest_factors(small: Any, context: Any) -> None:
    small.norm.weight.data.fill_(5.0)
    for block, gamma in zip(small.blocks, (1.0, 2.0), strict=True):
        block.norm1.weight.data = gamma + torch.arange(6.0) / 10
        block.norm2.weight.data.fill_(5.0)
    method = slimming(min_keep=0.0)
    plan = method.decide(context(method, small))
    assert plan.widths["blocks.0.conv1"] == (6, 1)  # all of them are below the smallest of the other block
    assert plan.kept["blocks.0.conv1"] == (5,)
    assert plan.kept["blocks"] == tuple(range(6))


def test_only_the_factors_of_noise_vanish(signals: Any) -> None:
    network, kept = signals(Slimming(Budget(params=0.3), strength=0.01), epochs=40)
    others = [channel for channel in range(10) if channel not in (2, 7)]
    assert kept == (2, 7)
    assert network[1].weight[[2, 7]].min() > 0.5
    assert network[1].weight[others].abs().max() < 0.01


def test_an_unread_channel_follows_only_the_penalty(learn: Any, small: Any, context: Any) -> None:
    for block in small.blocks:
        block.conv2.weight.data[:, 3:] = 0.0
        block.conv2.weight.register_hook(lambda grad: grad * (torch.arange(6) < 3).view(1, 6, 1, 1))
    method = slimming(strength=0.05, levels=["filter"])
    training = Training(epochs=3, lr=0.05, weight_decay=0.0, schedule="constant")
    logged = learn(method, small, training=training)
    gamma, speed = 1.0, 0.0
    for _ in range(int(logged["steps"])):  # SGD with momentum on 0.05 |gamma|
        speed = 0.9 * speed + 0.05 * np.sign(gamma)
        gamma -= 0.05 * speed
    for block in small.blocks:
        assert block.norm1.weight[3:].tolist() == pytest.approx([gamma] * 3, abs=1e-5)
    kept = method.decide(context(method, small)).kept
    assert all(set(kept[name]) <= {0, 1, 2} for name in ("blocks.0.conv1", "blocks.1.conv1"))


def test_the_distribution_of_the_factors_is_logged(small: Any, context: Any) -> None:
    method = slimming()
    for number, norm in enumerate([small.norm, *(n for b in small.blocks for n in (b.norm1, b.norm2))]):
        norm.weight.data = (
            (number * 6 + torch.arange(6.0)) * (-1) ** number / 29
        )  # magnitudes 0, 1/29, ..., 1
    figures = method.watch(context(method, small))
    assert figures == {
        "gamma_p10": pytest.approx(0.1),
        "gamma_p50": pytest.approx(0.5),
        "gamma_p90": pytest.approx(0.9),
        "gamma_small": pytest.approx(1 / 30),
    }


def test_from_scratch_draws_all_weights_afresh(small: Any, context: Any) -> None:
    before = small.stem.weight.detach().clone()
    method = slimming(from_scratch=True, initial_gamma=0.25, seed=1)
    method.prepare(context(method, small))
    assert (small.blocks[1].norm2.weight == 0.25).all()
    assert not torch.equal(small.stem.weight, before)


def test_a_network_without_factors_is_an_error_before_it_trains() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    method = slimming()
    with pytest.raises(UserError, match="no gamma to score"):
        method.prepare(method.context(network, torch.zeros(1, 1, 8, 8)))
    lenient = slimming(criterion=BNGamma(missing="keep"))
    lenient.prepare(lenient.context(network, torch.zeros(1, 1, 8, 8)))


def test_a_negative_strength_and_factors_that_start_at_zero_are_errors() -> None:
    with pytest.raises(UserError, match="strength=-1"):
        slimming(strength=-1)
    with pytest.raises(UserError, match="initial_gamma=0"):
        slimming(initial_gamma=0)


def test_every_round_of_an_iterative_run_learns(run: Any) -> None:
    words = ("recipe=iterative", "recipe.number=2", "recipe.round_training.epochs=1")
    outcome = run("method=slimming", *words)
    text = (outcome.folder.path / "curves.csv").read_text()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == [
        "learning 1",
        "round 1",
        "learning",
        "recovery",
    ]
