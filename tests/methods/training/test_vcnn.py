"""Variational pruning: the random scale, the gradient of the divergence, folding, and whole runs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import VCNN, Budget
from prunelab.methods.training.vcnn import Saliency
from prunelab.models import Training


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
    assert (norm(images)[:, 0] == 0).all()  # a mean of 0 leaves no shift behind


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
    method.before_step(None)  # type: ignore[arg-type]  # the saliencies know their layers
    assert torch.allclose(saliencies[0].mean.grad, mean.grad)
    assert torch.allclose(saliencies[0].log_deviation.grad, log_deviation.grad)


def test_the_divergence_shrinks_channels_that_nothing_needs(learn: Any, small: Any, context: Any) -> None:
    for block in small.blocks:
        block.conv2.weight.data[:, 3:] = 0.0  # nothing reads the last three channels inside the blocks
        block.conv2.weight.register_hook(lambda grad: grad * (torch.arange(6) < 3).view(1, 6, 1, 1))
    method = vcnn(strength=3e-4, levels=["filter"])
    names = list(small.state_dict())
    logged = learn(method, small, training=Training(epochs=2, lr=0.05, weight_decay=0.0))
    assert sorted(small.state_dict()) == sorted(names)
    plan = method.decide(context(method, small))
    for block in ("blocks.0.conv1", "blocks.1.conv1"):
        assert len(plan.kept[block]) < 6
    for block in small.blocks:
        assert block.norm1.weight[3:].abs().max() < 0.6  # the divergence alone moves them, from 1
    assert 0 <= logged["learning/redundant"] <= 1
    assert logged["learning/deviation"] > 0


def test_learning_that_crashed_goes_on_as_if_it_had_not(assert_resumes: Any) -> None:
    assert_resumes(vcnn)


@pytest.mark.parametrize(
    ("settings", "message"), [({"strength": -1}, "strength=-1"), ({"deviation": 0}, "deviation=0")]
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        vcnn(**settings)


def test_a_whole_run(run: Any) -> None:
    assert run("method=vcnn").record.budget.reached <= 0.5
