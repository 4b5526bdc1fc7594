"""A candidate is the pruned network that ``apply`` would make of a deep copy, and leaves the full one alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.models import build
from prunelab.structure import PruningPlan, analyze, apply, candidate

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def _half(model: nn.Module, dropped: tuple[str, ...] = ()) -> PruningPlan:
    graph = analyze(model, IMAGES[:1])
    return graph.plan({group.name: np.arange(0, group.size, 2) for group in graph.groups}, dropped)


@pytest.mark.parametrize(
    ("name", "settings", "dropped"),
    [
        ("cifar_resnet20", {"shortcut": "A"}, ("layer1.1",)),  # index buffers, a dropped block
        ("cifar_mobilenetv2", {}, ()),  # depthwise convolutions
        ("cifar_vgg16_bn", {}, ()),
    ],
)
def test_it_is_the_network_that_apply_makes(
    name: str, settings: dict[str, str], dropped: tuple[str, ...], lively: Callable[..., nn.Module]
) -> None:
    model = lively(build(name, num_classes=10, **settings), IMAGES)
    plan = _half(model, dropped)
    made, expected = candidate(model, plan), apply(copy.deepcopy(model), plan)
    assert str(made) == str(expected)
    assert list(made.state_dict()) == list(expected.state_dict())
    assert torch.equal(made.eval()(IMAGES), expected.eval()(IMAGES))


def test_nothing_is_shared_with_the_full_network(lively: Callable[..., nn.Module]) -> None:
    model = lively(build("cifar_resnet20", num_classes=10), IMAGES)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pruned = candidate(model, _half(model)).train()
    pruned(IMAGES)  # running statistics change
    with torch.no_grad():
        for parameter in pruned.parameters():
            parameter.zero_()
    pruned.register_forward_hook(lambda *given: None)
    pruned.layer1[0].conv1.kernel_size = (1, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not model.training and not model._forward_hooks and model.layer1[0].conv1.kernel_size == (3, 3)


def test_shared_modules_and_weights_stay_shared() -> None:
    twice = nn.Linear(6, 6)
    tied = nn.Linear(6, 6)
    tied.weight = twice.weight
    model = nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), twice, nn.ReLU(), twice, nn.ReLU(), tied, nn.Linear(6, 3)
    )
    images = torch.randn(2, 4)
    graph = analyze(model, images)
    plan = graph.plan({group.name: range(3) for group in graph.groups})
    pruned = candidate(model, plan)
    assert pruned[2] is pruned[4] and pruned[6].weight is pruned[2].weight
    assert torch.equal(pruned(images), apply(copy.deepcopy(model), plan)(images))


def test_a_plan_for_another_network_is_refused() -> None:
    plan = _half(build("cifar_vgg16_bn", num_classes=10))
    with pytest.raises(UserError, match="made for another network"):
        candidate(build("cifar_resnet20", num_classes=10), plan)
