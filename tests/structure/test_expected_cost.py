"""At integer widths the expected cost equals the cost model; at fractional widths it has gradients."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.models import build
from prunelab.structure import ExpectedCost, analyze


@pytest.mark.parametrize("resource", ["flops", "params"])
@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_mobilenetv2", "cifar_vgg16_bn"])
def test_at_whole_widths_it_is_the_cost_model(name: str, resource: str) -> None:
    graph = analyze(build(name, num_classes=10), torch.zeros(1, 3, 32, 32))
    generator = np.random.default_rng(0)
    widths = np.stack([generator.integers(1, group.size + 1, 20) for group in graph.groups], axis=1)
    alive = generator.integers(0, 2, (20, len(graph.blocks)))
    found = ExpectedCost(graph.cost, resource)(torch.from_numpy(widths), torch.from_numpy(alive))
    assert np.allclose(found.numpy(), graph.cost.of(resource, widths, alive), rtol=1e-12)


def test_it_is_the_expectation_over_independent_widths() -> None:
    """Against the sum over all widths of probability x cost."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 1))
    graph = analyze(model, torch.zeros(1, 3, 8, 8))
    torch.manual_seed(0)
    chances = [torch.rand(group.size, dtype=torch.float64) for group in graph.groups]
    chances = [chance / chance.sum() for chance in chances]
    brute = 0.0
    for widths in product(*(range(1, group.size + 1) for group in graph.groups)):
        chance = np.prod([float(c[w - 1]) for c, w in zip(chances, widths, strict=True)])
        brute += chance * graph.cost.flops(np.array(widths))
    means = [
        (chance * torch.arange(1, group.size + 1)).sum()
        for group, chance in zip(graph.groups, chances, strict=True)
    ]
    found = ExpectedCost(graph.cost, "flops")(torch.stack(means))
    assert float(found) == pytest.approx(brute, rel=1e-6)  # the cost model rounds to whole FLOPs


def test_gradients_are_the_slopes() -> None:
    graph = analyze(build("cifar_resnet20", num_classes=10), torch.zeros(1, 3, 32, 32))
    cost = ExpectedCost(graph.cost, "flops")
    widths = torch.tensor(
        [group.size * 0.6 for group in graph.groups], dtype=torch.float64, requires_grad=True
    )
    assert torch.autograd.gradcheck(lambda w: cost(w) / 1e6, widths)


def test_a_resource_without_gradient_is_an_error() -> None:
    graph = analyze(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)), torch.zeros(1, 3, 2, 2))
    with pytest.raises(UserError, match=r"budget\.latency"):
        ExpectedCost(graph.cost, "latency")
