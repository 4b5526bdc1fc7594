"""The supernet of a context: its order, the sandwich loss by hand, and channels that are scaled."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.methods import Budget, ImportanceMethod, L1Norm, PruningContext
from prunelab.methods.search.supernet import Supernet
from prunelab.models import build
from prunelab.structure import candidate

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 3, 1, 9])


@pytest.fixture
def context() -> PruningContext:
    torch.manual_seed(0)
    model = build("cifar_resnet20", num_classes=10, shortcut="A").train()
    return ImportanceMethod(L1Norm(), Budget(flops=0.5), min_keep=0.25).context(model, IMAGES[:1])


def test_the_first_channels_are_those_of_largest_norm(context: PruningContext) -> None:
    supernet = Supernet.by_importance(context)
    norms = L1Norm().score(context).channels
    for name, order in supernet.order.items():
        assert np.all(np.diff(norms[name][order]) <= 0)
    widths = supernet.narrowest
    for group, width in zip(context.graph.groups, widths, strict=True):
        assert width == np.ceil(0.25 * group.size)
        assert set(supernet.plan(widths).kept[group.name]) == set(supernet.order[group.name][:width])


def test_the_sandwich_loss_by_hand(context: PruningContext) -> None:
    """Cross entropy of the full network, and for each narrower one KL(full || narrow)."""
    supernet, model = Supernet.by_importance(context), context.model
    middle = supernet.random(np.random.default_rng(0))
    parts = [
        copy.deepcopy(model),
        *(candidate(model, supernet.plan(w)) for w in (supernet.narrowest, middle)),
    ]
    full, *narrower = (network.train()(IMAGES) for network in parts)
    expected = functional.cross_entropy(full, TARGETS)
    target = full.softmax(dim=1)
    for logits in narrower:
        expected = expected + (target * (target.log() - logits.log_softmax(dim=1))).sum(dim=1).mean()
    buffers = {name: buffer.clone() for name, buffer in parts[0].named_buffers()}
    loss = supernet.sandwich(model, (IMAGES, TARGETS), [supernet.narrowest, middle], functional.cross_entropy)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    for name, buffer in model.named_buffers():  # as after one pass of the full network alone
        assert torch.allclose(buffer, buffers[name]), name


def test_the_full_network_learns_only_from_targets(context: PruningContext) -> None:
    """No gradient of the distillation reaches the teacher."""
    supernet, model = Supernet.by_importance(context), context.model
    loss = supernet.sandwich(model, (IMAGES, TARGETS), [supernet.full], functional.cross_entropy)
    loss.backward()  # the same network as student: KL = 0 with zero gradient
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    functional.cross_entropy(model(IMAGES), TARGETS).backward()
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        assert parameter.grad is not None and torch.allclose(gradient, parameter.grad, atol=1e-6)


def _masked(model: nn.Module, supernet: Supernet, widths: Any) -> Tensor:
    return candidate(model, supernet.plan(widths)).eval()(IMAGES)


def test_scaling_by_zeros_and_ones_is_removing(context: PruningContext) -> None:
    supernet, model = Supernet.by_importance(context), context.model
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    model.eval()
    widths = supernet.random(np.random.default_rng(1))
    values = {
        group.name: (torch.arange(group.size) < width).float()
        for group, width in zip(context.graph.groups, widths.tolist(), strict=True)
    }
    with torch.no_grad(), supernet.scaled(values):
        scaled = model(IMAGES)
    assert torch.allclose(scaled, _masked(model, supernet, widths), atol=1e-5)


def test_gradients_reach_the_factors(context: PruningContext) -> None:
    supernet, model = Supernet.by_importance(context), context.model.eval()
    values = {g.name: torch.full((g.size,), 0.7, requires_grad=True) for g in context.graph.groups}
    with supernet.scaled(values):
        functional.cross_entropy(model(IMAGES), TARGETS).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in values.values())
