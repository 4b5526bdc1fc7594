"""DMCP: the loss of the expected FLOPs by hand, the schedule, the decision, and the right widths of a network."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import DMCP, Budget
from prunelab.training import Training


def prepared(method: DMCP, context: Any, network: nn.Module) -> DMCP:
    found = context(method, network)
    method.begin(found)
    method.prepare(found)
    method.steps = 100
    return method


def set_logits(method: DMCP, value: float) -> None:
    assert method._chains is not None
    with torch.no_grad():
        method._chains.logits.fill_(value)


def test_the_expected_flops_are_those_of_all_networks_weighted_by_their_probability(context: Any) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10)
    )
    method = prepared(DMCP(Budget(flops=0.5), min_keep=0.0), context, network)
    chains, graph = method._chains, method.learning.graph
    with torch.no_grad():
        chains.logits.normal_(generator=torch.Generator().manual_seed(1))
    stays = torch.sigmoid(chains.logits.detach()).numpy()

    def chance(row: int, width: int, widths: Any) -> float:
        last = list(widths).index(width)
        stop = 1.0 if last == len(widths) - 1 else 1 - stays[row, last]
        return float(np.prod(stays[row, :last])) * stop

    brute = sum(
        np.prod([chance(row, w, grid) for row, (w, grid) in enumerate(zip(found, grids, strict=True))])
        * graph.cost.flops(np.array(found))
        for grids in [list(chains.widths.values())]
        for found in product(*(grid.tolist() for grid in grids))
    )
    assert method.watch(method.learning)["expected"] == pytest.approx(brute / graph.cost.flops(), rel=1e-6)


@pytest.mark.parametrize(("logit", "sign"), [(-2.0, -1.0), (6.0, 1.0)])
def test_the_loss_of_the_cost_by_hand(small: Any, context: Any, logit: float, sign: float) -> None:
    """log |E - T| below 0.95 T pulls up, log |E - 0.95 T| above T pulls down."""
    method = prepared(DMCP(Budget(flops=0.5)), context, small)
    set_logits(method, logit)
    total = method.learning.graph.cost.flops()
    expected = method.watch(method.learning)["expected"] * total
    anchor = 0.5 * total if sign < 0 else 0.95 * 0.5 * total
    loss = method._cost_loss()
    assert float(loss.detach()) == pytest.approx(math.log(abs(expected - anchor)))
    (gradient,) = torch.autograd.grad(loss, method._chains.logits)
    assert (sign * gradient[method._chains.growth > 0] > 0).all()


def test_between_95_percent_and_the_target_the_cost_costs_nothing(small: Any, context: Any) -> None:
    method = prepared(DMCP(Budget(flops=0.5)), context, small)
    set_logits(method, 1.0)
    expected = method.watch(method.learning)["expected"]
    for keep, inside in ((expected * 1.01, True), (expected / 0.94, False), (expected * 0.99, False)):
        other = prepared(DMCP(Budget(flops=keep)), context, small)
        set_logits(other, 1.0)
        assert (float(other._cost_loss().detach()) == 0) is inside


def test_logits_move_by_nesterov_momentum(small: Any, context: Any) -> None:
    """Two steps with gradient 1, rate 0.5: -0.5 (1 + 0.9), then -0.5 (1 + 0.9 x 1.9)."""
    method = prepared(DMCP(Budget(flops=0.5)), context, small)
    for step in range(2):
        method.step, method._batches = step, 4
        method._chains.logits.grad = torch.full_like(method._chains.logits, 4.0)  # the sum of four batches
        method.after_step(method.learning, {})
    expected = -0.5 * 1.9 - 0.5 * (1 + 0.9 * 1.9)
    assert method._chains.logits.detach().unique().tolist() == pytest.approx([expected])


@pytest.mark.slow
def test_logits_rest_during_the_warmup(learn: Any, small: Any) -> None:
    method = DMCP(Budget(flops=0.5), warmup=0.99)
    learn(method, small, training=Training(epochs=1, lr=0.05))
    assert not method._chains.logits.any()
    method = DMCP(Budget(flops=0.5), warmup=0.0)
    learn(method, small, folder="again", training=Training(epochs=1, lr=0.05))
    assert method._chains.logits.any()


@pytest.mark.parametrize("logit", [-3.0, 0.0, 4.0])
@pytest.mark.parametrize("keep", [0.3, 0.5, 0.8])
def test_the_rounded_network_uses_up_the_budget(small: Any, context: Any, logit: float, keep: float) -> None:
    method = prepared(DMCP(Budget(flops=keep), min_keep=0.0), context, small)
    set_logits(method, logit)
    found = context(method, small)
    cost = found.graph.cost
    plan = method.decide(found)
    spent = cost.flops(plan) / cost.flops()
    assert spent <= keep
    wider = [
        cost.flops(np.array([after + (name == other) for name, (_, after) in plan.widths.items()]))
        for other, (before, after) in plan.widths.items()
        if after < before
    ]
    assert max(wider) / cost.flops() > keep or spent > keep - 0.15


def test_a_method_that_has_not_learned_decides_nothing(small: Any, context: Any) -> None:
    method = DMCP(Budget(flops=0.5))
    with pytest.raises(UserError, match="needs a learning fit"):
        method.decide(context(method, small))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 1}, "steps=1"),
        ({"samples": -1}, "samples=-1"),
        ({"warmup": 1.0}, "warmup=1.0"),
        ({"logit_lr": 0.1, "last_logit_lr": 0.2}, "last_logit_lr=0.2"),
        ({"strength": -1.0}, "strength=-1.0"),
        ({"levels": ["block"]}, "block"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DMCP(Budget(flops=0.5), **settings)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_superfluous_channels_are_removed_and_needed_ones_kept(
    known: Any, learned_widths: Any, seed: int
) -> None:
    method = DMCP(Budget(flops=0.6), warmup=0.2, strength=1.0, seed=seed)
    widths = learned_widths(method, known(seed, lr=0.005), epochs=30)
    assert widths["0"] >= 7  # of 8
    assert widths["3"] <= 20  # of 32
