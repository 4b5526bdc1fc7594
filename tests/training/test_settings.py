"""Training settings are checked when they are created, and give the optimizer that they name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from prunelab.errors import UserError
from prunelab.models import CifarResNet
from prunelab.training import Training
from prunelab.training.settings import make_optimizer


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, not 0"),
        ({"optimizer": "adam"}, "there is no optimizer 'adam'. Did you mean 'adamw'?"),
        ({"schedule": "cosin"}, "there is no schedule 'cosin'. Did you mean 'cosine'?"),
        ({"lr": 0}, "lr must be above 0, not 0"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, not 1.0"),
        ({"momentum": 0, "nesterov": True}, "nesterov must be false when momentum is 0, not True"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0, not -0.0001"),
        ({"gamma": 0}, "gamma must be above 0 and at most 1, not 0"),
        ({"warmup_epochs": 10}, "warmup_epochs must be at least 0 and below epochs=10, not 10"),
        ({"label_smoothing": 1}, "label_smoothing must be at least 0 and below 1, not 1"),
        ({"schedule": "multistep"}, r"milestones must be rising epochs between 0 and epochs=10.*not \[\]"),
        ({"schedule": "multistep", "milestones": [5, 5]}, r"milestones must be rising.*not \[5, 5\]"),
        ({"schedule": "multistep", "milestones": [5, 10]}, r"milestones must be rising.*not \[5, 10\]"),
        ({"schedule": "multistep", "milestones": [0, 5]}, r"milestones must be rising.*not \[0, 5\]"),
    ],
)
def test_wrong_settings_are_errors(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"training: {message}"):
        Training(**{"epochs": 10, **wrong})


def test_sgd() -> None:
    optimizer = make_optimizer(CifarResNet(1), Training(epochs=1, lr=0.2, nesterov=True, weight_decay=5e-4))
    assert isinstance(optimizer, SGD)
    for group in optimizer.param_groups:
        assert (group["lr"], group["momentum"], group["nesterov"]) == (0.2, 0.9, True)
        assert group["weight_decay"] == 5e-4


def test_adamw() -> None:
    optimizer = make_optimizer(CifarResNet(1), Training(epochs=1, optimizer="adamw", lr=1e-3))
    assert isinstance(optimizer, AdamW)


def test_every_trained_parameter_is_in_one_group() -> None:
    model = CifarResNet(1)
    model.linear.weight.requires_grad_(False)
    groups = make_optimizer(model, Training(epochs=1)).param_groups
    held = [parameter for group in groups for parameter in group["params"]]
    expected = [parameter for parameter in model.parameters() if parameter is not model.linear.weight]
    assert len(held) == len(expected)
    assert {id(parameter) for parameter in held} == {id(parameter) for parameter in expected}


def test_norms_and_biases_can_go_undecayed() -> None:
    model = CifarResNet(1)
    settings = Training(epochs=1, weight_decay=0.1, decay_norm_and_bias=False)
    decay = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(model, settings).param_groups
        for parameter in group["params"]
    }
    assert decay[id(model.conv1.weight)] == decay[id(model.linear.weight)] == 0.1
    assert decay[id(model.bn1.weight)] == decay[id(model.bn1.bias)] == decay[id(model.linear.bias)] == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_fused_optimizer_takes_the_same_steps(optimizer: str) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(5, 3)
    fused = copy.deepcopy(plain)
    training = Training(epochs=1, optimizer=optimizer, lr=0.1)  # type: ignore[arg-type]
    for network, is_fused in ((plain, False), (fused, True)):
        made = make_optimizer(network, training, is_fused)
        assert bool(made.defaults["fused"]) == is_fused
        for _ in range(3):
            made.zero_grad()
            network(torch.ones(2, 5)).square().sum().backward()
            made.step()
    torch.testing.assert_close(fused.weight, plain.weight)
