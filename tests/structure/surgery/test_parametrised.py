"""Layers that compute their weight: parametrisations, the older weight hooks, hypernetworks, kernels for each image."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

import prunelab

IMAGES = torch.linspace(-1, 1, 3 * 3 * 10 * 10).reshape(3, 3, 10, 10).sin()


class Scaled(nn.Module):
    """The weight times a tensor of ``shape``: a parameter (a gain) or a buffer (a mask)."""

    def __init__(self, shape: tuple[int, ...], buffer: bool) -> None:
        super().__init__()
        scale = 0.5 + torch.rand(shape)
        if buffer:
            self.register_buffer("scale", scale)
        else:
            self.scale = nn.Parameter(scale)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.scale


class Mixed(nn.Module):
    """The weight times the output of a layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8, bias=False)

    def forward(self, weight: Tensor) -> Tensor:
        return self.mix(weight.transpose(1, 3)).transpose(1, 3)


def network(bias: bool) -> nn.Sequential:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, bias=bias), nn.ReLU(), nn.Conv2d(6, 2, 3))
    return nn.Sequential(*layers)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("buffer", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 3, 3), (1, 1, 1, 1), (6, 1, 1, 1), (6, 8, 3, 3), (8, 1, 1), ()], ids=str
)
def test_a_weight_times_a_tensor(
    exact: Callable[..., Any], shape: tuple[int, ...], buffer: bool, bias: bool
) -> None:
    model = network(bias)
    parametrize.register_parametrization(model[2], "weight", Scaled(shape, buffer))
    pruning = exact(model, IMAGES)
    assert [size for _, size in pruning.groups.values()] == [8, 6]
    layer = pruning.model[2]
    assert (layer.out_channels, layer.in_channels) == layer.weight.shape[:2] != (6, 8)


@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_weight_normalisation(prune: Callable[..., Any], dim: int | None, bias: bool) -> None:
    model = network(bias)
    weight_norm(model[2], dim=dim)
    pruning = prune(model, IMAGES)
    layer = pruning.model[2]
    assert (layer.out_channels, layer.in_channels) == layer.weight.shape[:2] != (6, 8)
    assert pruning.inexact or pruning.frozen  # the norm is taken over channels that the plan removes


@pytest.mark.parametrize("old", ["weight_norm", "prune"])
def test_weights_that_a_hook_computes(old: str) -> None:
    model = network(bias=False)
    if old == "prune":
        torch.nn.utils.prune.l1_unstructured(model[2], "weight", amount=0.3)
    else:
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model[2])
    graph = prunelab.analyze(model, IMAGES)
    prunelab.apply(model, graph.plan({group.name: [0, 2, 3] for group in graph.groups}))
    assert (model[2].out_channels, model[2].in_channels) == (3, 3)
    model(IMAGES).sum().backward()
    assert model[2].weight.shape == (3, 3, 3, 3)


def test_a_layer_inside_a_parametrisation(exact: Callable[..., Any]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 3))
    parametrize.register_parametrization(model[2], "weight", Mixed())
    graph = prunelab.analyze(model, IMAGES)
    plan = graph.plan({group.name: range(group.size // 2) for group in graph.groups})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9
    assert pruned[2].weight.shape[:2] == (pruned[2].out_channels, pruned[2].in_channels)
    mix = pruned[2].parametrizations.weight[0].mix
    assert (mix.out_features, mix.in_features) == mix.weight.shape


class PerSample(nn.Module):
    """A mixture of kernels for each image (CondConv): one grouped convolution for the whole batch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bank = nn.Parameter(torch.rand(4, 6, 8, 3, 3) - 0.5)
        self.gate = nn.Linear(8, 4)
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        count, channels = x.shape[:2]
        weight = torch.einsum("bk,kocij->bocij", self.gate(x.mean((2, 3))).sigmoid(), self.bank)
        merged = x.reshape(1, count * channels, *x.shape[2:])
        y = F.conv2d(merged, weight.reshape(-1, channels, 3, 3), padding=1, groups=count)
        return self.head(torch.relu(y).reshape(count, -1, *x.shape[2:]))


class Hyper(nn.Module):
    """A small network computes the weight of a convolution of two groups, transposed or not."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.shape = (8, 3, 3, 3) if transposed else (6, 4, 3, 3)
        self.convolve = F.conv_transpose2d if transposed else F.conv2d
        self.code = nn.Parameter(torch.rand(4))
        self.stem, self.hidden = nn.Conv2d(3, 8, 3), nn.Linear(4, 10)
        self.hyper, self.head = nn.Linear(10, 216), nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.hyper(torch.relu(self.hidden(self.code))).reshape(self.shape)
        return self.head(torch.relu(self.convolve(torch.relu(self.stem(x)), weight, groups=2)))


class Constant(nn.Module):
    """A grouped convolution with a kernel that is not a parameter."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.stem, self.hidden, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ones(8, 8 // self.groups, 3, 3, dtype=x.dtype, device=x.device)
        return self.head(self.hidden(F.conv2d(self.stem(x), weight, groups=self.groups)))


@pytest.mark.parametrize("images", [1, 2, 3])
@pytest.mark.parametrize(
    ("make", "group"),
    [
        (PerSample, "gate"),
        (lambda: Hyper(False), "hidden"),
        (lambda: Hyper(True), "hidden"),
        (lambda: Constant(2), "hidden"),
        (lambda: Constant(8), "hidden"),
    ],
    ids=["per sample", "hyper", "hyper transposed", "constant", "constant depthwise"],
)
def test_grouped_convolutions_with_a_computed_weight(
    random_plan: Callable[..., Any], masked_by_hand: Callable[..., Any], outputs: Callable[..., Any],
    make: Callable[[], nn.Module], group: str, images: int,
) -> None:  # fmt: skip
    """Channels independent of the weight can be removed, for any batch; groups appear once."""
    model, batch = make(), IMAGES[:images]
    graph = prunelab.analyze(model, batch)
    assert [found.name for found in graph.groups] == [group]
    assert {found.name for found in graph.frozen} == {"stem", "head"} | {"hyper"} & {
        *dict(model.named_modules())
    }
    plan = random_plan(graph)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, batch) < 1e-9
    (expected,) = masked_by_hand(model, graph, plan, batch)
    torch.testing.assert_close(outputs(pruned, batch)[0], expected, rtol=1e-9, atol=1e-9)
