"""Reductions over places have no effect; over channels they are inexact, and freeze channels that no layer reads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()
Reduce = Callable[[Tensor], Tensor]


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


@pytest.mark.parametrize(
    "reduce",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.sum((-1, -2)),
        lambda x: x.amax((2, 3)),
        lambda x: x.flatten(2).max(-1).values,
        lambda x: x.flatten(2).logsumexp(2),
        lambda x: x.std((2, 3)) + x.var((2, 3)),
        lambda x: x.norm(p=2, dim=(2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1),
    ],
    ids=["mean", "sum", "amax", "max", "logsumexp", "std and var", "norm", "pool"],
)
def test_over_places(exact: Callable[..., Any], network: Any, reduce: Reduce) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(reduce(F.relu(net.conv(x))))

    assert exact(network(forward, conv=conv(3, 8), last=nn.Linear(8, 3)), IMAGES).groups == {
        "conv": ("filter", 8)
    }


@pytest.mark.parametrize(
    ("reduce", "reason"),
    [
        (lambda x: x.mean(1), "no layer reads"),
        (lambda x: x.sum(1), "no layer reads"),
        (lambda x: x.amax(1), "no layer reads"),
        (lambda x: x.max(1).values, "no layer reads"),
        (lambda x: x.norm(p=2, dim=1), "no layer reads"),
        (lambda x: x.logsumexp(1), "logsumexp"),
    ],
    ids=["mean", "sum", "amax", "max", "norm", "logsumexp"],
)
def test_over_channels_freezes(exact: Callable[..., Any], network: Any, reduce: Reduce, reason: str) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(reduce(F.relu(net.conv(F.relu(net.stem(x))))).flatten(1))

    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), last=nn.Linear(64, 3)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert reason in pruning.frozen["conv"]


def test_a_statistic_that_normalises_its_own_channels_is_inexact(
    inexact: Callable[..., Any], network: Any
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(x)
        x = (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)
        return net.out(F.relu(x))

    pruning = inexact(network(forward, conv=conv(3, 8), out=conv(8, 3)), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8)}
    assert set(pruning.inexact) == {"conv"}


def test_the_mean_of_everything_as_a_second_output_freezes(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(net.conv(x))
        return net.out(x), x.mean()

    assert exact(network(forward, conv=conv(3, 8), out=conv(8, 3)), IMAGES).groups == {}


@pytest.mark.parametrize("largest", [lambda x: x.amax(1, keepdim=True), lambda x: x.max(1, keepdim=True)[0]])
def test_channels_pooled_by_spatial_attention_are_inexact(
    inexact: Callable[..., Any], network: Any, largest: Reduce
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.conv(F.relu(net.stem(x))))
        pooled = torch.cat([x.mean(1, keepdim=True), largest(x)], 1)
        return net.out(x * torch.sigmoid(net.attend(pooled)))

    parts = {"stem": conv(3, 6), "conv": conv(6, 8), "attend": conv(2, 1), "out": conv(8, 3)}
    pruning = inexact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6), "conv": ("filter", 8)}
    assert set(pruning.inexact) == {"conv"} and "statistic over channels" in pruning.inexact["conv"]
