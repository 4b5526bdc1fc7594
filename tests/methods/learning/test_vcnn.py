"""Variational pruning: the random scale, the gradient of the divergence, folding, and the learned factors."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import VCNN, Budget
from prunelab.methods.learning.vcnn import Saliency
from prunelab.training import Training

pytestmark = pytest.mark.slow


def vcnn(**settings: Any) -> VCNN:
    return VCNN(Budget(flops=0.5), **settings)


@pytest.fixture
def norm() -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(3)
    norm.weight.data = torch.tensor([2.0, -0.5, 1.0])
    norm.bias.data = torch.tensor([1.0, 1.0, -3.0])
    return norm


def test_the_scale_multiplies_the_normalised_value_plus_beta(norm: nn.BatchNorm2d) -> None:
    images = torch.randn(4, 3, 5, 5)
    normalised = nn.BatchNorm2d(3, affine=False)(images)
    saliency = Saliency(norm, deviation=0.3)
    out = norm(images)
    g = torch.tensor([2.0, -0.5, 1.0]) + 0.3 * saliency.noise
    beta = torch.tensor([0.5, -2.0, -3.0])
    assert (saliency.noise != 0).all()
    assert torch.allclose(out, g.view(3, 1, 1) * (normalised + beta.view(3, 1, 1)), atol=1e-5)


def test_evaluation_uses_the_mean_and_folding_changes_nothing(norm: nn.BatchNorm2d) -> None:
    images, plain = torch.randn(4, 3, 5, 5), copy.deepcopy(norm).eval()
    names = list(norm.state_dict())
    saliency = Saliency(norm.eval(), deviation=0.3)
    assert torch.allclose(norm(images), plain(images), atol=1e-6)
    saliency.mean.data[0] = 0.0
    before = norm(images)
    saliency.fold()
    assert type(norm) is nn.BatchNorm2d
    assert sorted(norm.state_dict()) == sorted(names)
    assert torch.equal(norm(images), before)
    assert (norm(images)[:, 0] == 0).all()  # with a mean of 0 the shift is 0


def test_the_penalty_is_the_gradient_of_the_divergence(small: Any, context: Any) -> None:
    method = vcnn(strength=0.1, deviation=0.2)
    method.prepare(context(method, small))
    saliencies = method._saliencies
    for saliency in saliencies:
        saliency.mean.data.uniform_(-1, 1)
        saliency.mean.grad = torch.zeros_like(saliency.mean)
        saliency.log_deviation.grad = torch.zeros_like(saliency.log_deviation)
    mean = saliencies[0].mean.detach().clone().requires_grad_()
    log_deviation = saliencies[0].log_deviation.detach().clone().requires_grad_()
    (0.1 * mean.square() / (2 * log_deviation.exp().square())).sum().backward()
    method.before_step(None)  # type: ignore[arg-type]  # the layers of the saliencies are set
    assert torch.allclose(saliencies[0].mean.grad, mean.grad)
    assert torch.allclose(saliencies[0].log_deviation.grad, log_deviation.grad)


def test_channels_that_carry_the_class_keep_their_scale_and_noise_loses_it(signals: Any) -> None:
    network, kept = signals(VCNN(Budget(params=0.3), strength=1e-3))
    carriers = [2, 7]
    others = [channel for channel in range(10) if channel not in carriers]
    assert kept == (2, 7)
    assert network[1].weight[carriers].abs().min() > 1
    assert network[1].weight[others].abs().max() < 0.02  # tau


def test_an_unread_channel_follows_only_the_divergence(learn: Any, small: Any, context: Any) -> None:
    norms, trained = [block.norm1 for block in small.blocks], slice(3, None)
    for block in small.blocks:
        block.conv2.weight.data[:, trained] = 0.0
        block.conv2.weight.register_hook(lambda grad: grad * (torch.arange(6) < 3).view(1, 6, 1, 1))
    method = vcnn(strength=3e-4, levels=["filter"])
    names = list(small.state_dict())
    training = Training(epochs=2, lr=0.05, weight_decay=0.0, schedule="constant")
    logged = learn(method, small, training=training)
    assert sorted(small.state_dict()) == sorted(names)

    mean, log_deviation, speeds = 1.0, math.log(0.05), [0.0, 0.0]
    for _ in range(int(logged["steps"])):  # SGD with momentum on 3e-4 m^2 / (2 s^2)
        variance = math.exp(2 * log_deviation)
        gradients = (3e-4 * mean / variance, -3e-4 * mean**2 / variance)
        speeds = [0.9 * speed + gradient for speed, gradient in zip(speeds, gradients, strict=True)]
        mean, log_deviation = mean - 0.05 * speeds[0], log_deviation - 0.05 * speeds[1]
    for norm in norms:
        assert norm.weight[trained].tolist() == pytest.approx([mean] * 3, rel=1e-3)
    for block in ("blocks.0.conv1", "blocks.1.conv1"):
        assert set(method.decide(context(method, small)).kept[block]) <= {0, 1, 2}


def test_redundant_channels_are_counted_by_both_thresholds(small: Any, context: Any) -> None:
    method = vcnn(deviation=0.005)
    found = context(method, small)
    method.prepare(found)
    assert method.watch(found)["redundant"] == method.watch(found)["small"] == 0
    saliency = method._saliencies[0]  # of 6 among 30 channels
    saliency.mean.data = torch.tensor([0.01, -0.01, 0.01, 0.03, 0.019, 0.5])
    saliency.log_deviation.data[2] = math.log(0.02)
    assert method.watch(found)["redundant"] == pytest.approx(3 / 30)
    assert method.watch(found)["small"] == pytest.approx(4 / 30)
    assert method.watch(found)["deviation"] == pytest.approx(0.005)
    method.finish(found)


@pytest.mark.parametrize(
    ("settings", "message"), [({"strength": -1}, "strength=-1"), ({"deviation": 0}, "deviation=0")]
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vcnn(**settings)
