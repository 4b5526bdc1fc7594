"""Networks small enough to compute by hand, and a graph without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.methods import Budget, Criterion, ImportanceMethod, PruningContext


class Plain(nn.Module):
    """conv1 -> norm1 -> relu -> conv2 -> norm2 -> relu -> mean -> head, with functional ReLUs."""

    def __init__(self, first: int = 4, second: int = 6) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, first, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(first)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(second)
        self.head = nn.Linear(second, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(images)))
        hidden = functional.relu(self.norm2(self.conv2(hidden)))
        return self.head(hidden.mean(dim=(2, 3)))


class Block(nn.Module):
    """y = relu(x + f(x)), the sum taken in place."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, images: Tensor) -> Tensor:
        branch = self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(images)), inplace=True)))
        branch += images
        return functional.relu(branch, inplace=True)


class Residual(nn.Module):
    """A stem and three blocks of one stage; ``norm1`` of each block scales a group of level filter."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))
        self.head = nn.Linear(width, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.norm(self.stem(images)))).mean(dim=(2, 3)))


def _randomized(model: nn.Module) -> nn.Module:
    """Weights, biases, norms and running statistics all different, the same in every test; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5, generator=generator)
            for tensor in (module.bias.data, module.running_mean):
                tensor.uniform_(-0.5, 0.5, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return model.eval()


@pytest.fixture
def plain() -> Plain:
    return _randomized(Plain())


@pytest.fixture
def residual() -> Residual:
    return _randomized(Residual())


@pytest.fixture(scope="session")
def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches of 8, 8 and 4 images, with targets."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(n, 2, 5, 5, generator=generator), torch.randint(3, (n,), generator=generator))
        for n in (8, 8, 4)
    ]


@pytest.fixture
def make_context(batches: Any) -> Callable[..., PruningContext]:
    """(criterion, model, **settings of the method) -> the context in which the criterion scores the model."""

    def make(criterion: Criterion, model: nn.Module, **settings: Any) -> PruningContext:
        method = ImportanceMethod(criterion, Budget(flops=0.5), **settings)
        return method.context(model, batches[0][0][:1], batches)

    return make


class ToyCost:
    """Layer i costs ``coefficients[i]`` x its width x the width before it (1 before the first), if its block
    is alive."""

    def __init__(self, sizes: Sequence[int], coefficients: Sequence[float], block_of: Sequence[int]) -> None:
        self.sizes, self.coefficients = np.array(sizes), np.array(coefficients)
        self.block_of = np.array(block_of)

    def flops(self, widths: Any = None, alive: Any = None) -> Any:
        if widths is None:
            return self.flops(self.sizes[None])[0]
        if isinstance(widths, SimpleNamespace):  # a plan
            plan = widths
            narrow = [len(kept) for kept in plan.kept.values()]
            standing = [name not in plan.dropped_blocks for name in plan.blocks]
            return self.flops(np.array([narrow]), np.array([standing], dtype=np.int64).reshape(1, -1))[0]
        before = np.concatenate([np.ones((len(widths), 1)), widths[:, :-1]], axis=1)
        costs = self.coefficients * widths * before
        if alive is not None:
            always = np.ones((len(widths), 1))
            costs = costs * np.concatenate([alive, always], axis=1)[:, self.block_of]
        return costs.sum(axis=1)

    params = flops


@pytest.fixture(scope="session")
def toy_graph() -> Callable[..., Any]:
    """(sizes, coefficients, levels, block_of) -> a graph of a chain of layers; ``block_of`` -1: in no
    block."""

    def make(
        sizes: Sequence[int],
        coefficients: Sequence[float] | None = None,
        levels: Sequence[str] | None = None,
        block_of: Sequence[int] | None = None,
        frozen: Sequence[Any] = (),
    ) -> Any:
        block_of = [-1] * len(sizes) if block_of is None else block_of
        groups = tuple(
            SimpleNamespace(name=f"g{i}", size=size, level="filter" if levels is None else levels[i])
            for i, size in enumerate(sizes)
        )
        names = [f"b{i}" for i in range(max(block_of) + 1)]

        def plan(kept: Any, dropped: Any) -> SimpleNamespace:
            whole = {group.name: tuple(range(group.size)) for group in groups}
            return SimpleNamespace(kept={**whole, **kept}, dropped_blocks=tuple(dropped), blocks=names)

        return SimpleNamespace(
            groups=groups,
            frozen=tuple(frozen),
            blocks=tuple(SimpleNamespace(name=name) for name in names),
            cost=ToyCost(sizes, [1.0] * len(sizes) if coefficients is None else coefficients, block_of),
            plan=plan,
            at=lambda levels: tuple(group for group in groups if group.level in levels),
        )

    return make
