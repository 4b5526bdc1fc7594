"""Widths that must be equal: the program uses the width of one tensor for another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunelab

IMAGES = torch.randn(2, 3, 8, 8)


class Reduced(nn.Module):
    """Keys and values of fewer positions, as in SegFormer: ``C`` is the width of x, and the view that of ``reduce``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(width, width, 2, stride=2)
        self.back = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        side = int(count**0.5)
        maps = self.reduce(x.transpose(1, 2).reshape(batch, width, side, side))
        rows = maps.reshape(batch, width, -1).transpose(1, 2)
        return x + self.back(rows).mean(1, keepdim=True)


class Modulated(nn.Module):
    """A part of one layer's result has the width of x, as in FocalNet: ``split(y, (C, C), dim)``."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.project, self.back = nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        gate, value = torch.split(self.project(x), (width, width), -1)
        return x + self.back(gate.sigmoid() * value)


class Written(Reduced):
    """The width is a number in the program, which no other width can replace."""

    def forward(self, x: Tensor) -> Tensor:
        maps = self.reduce(x.transpose(1, 2).reshape(len(x), -1, 4, 4))
        return x + self.back(maps.reshape(len(x), 8, -1).transpose(1, 2)).mean(1, keepdim=True)


class Network(nn.Module):
    """A stem that makes 16 tokens, two blocks, a head."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, stride=2)
        self.blocks = nn.ModuleList([kind(), kind()])
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("kind", "tied"), [(Reduced, "blocks.{}.reduce.weight"), (Modulated, "blocks.{}.project.weight")]
)
def test_channels_of_equal_number_are_removed_together(
    kind: type[nn.Module], tied: str, prune: Callable[..., Any]
) -> None:
    pruning = prune(Network(kind), IMAGES, kept={"blocks": [0, 2, 3, 5, 7]})
    assert pruning.error < 1e-9
    assert not pruning.frozen
    assert {name: size for name, (_, size) in pruning.groups.items()} == {"blocks": 8}
    parameters = {found.parameter for found in pruning.graph.group("blocks").slices}
    assert {"stem.weight", *(tied.format(number) for number in (0, 1))} <= parameters
    with torch.no_grad():
        assert pruning.model(IMAGES).shape == (2, 4)


def test_a_number_in_the_program_freezes_only_its_layer() -> None:
    graph = prunelab.analyze(Network(Written), IMAGES)
    assert [group.name for group in graph.groups] == ["blocks"]
    assert {group.name for group in graph.frozen} == {"blocks.0.reduce", "blocks.1.reduce", "head"}
