"""Networks small enough to compute by hand, and a graph without a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.methods import (
    Budget,
    Criterion,
    ImportanceMethod,
    LearningMethod,
    PruningCallback,
    PruningContext,
)


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

    resources = ("flops", "params")

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

    def function(self, resource: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(self, resource)
        return found


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


class Known(pl.LightningModule):
    """A network with known right widths: all 8 channels of group "0" and 16 of the 32 of group "3" are needed.

    Class c < 8 of 16 makes input channel c bright, class c + 8 makes it dark. The first layer copies the 8 channels, in
    the linear part of its ReLU. The second one computes both signs of each (16 channels), 8 weaker copies and 8
    channels that are almost zero. Images are (N, 8, 4, 4).
    """

    def __init__(self, seed: int, lr: float) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.lr = lr
        self.net = nn.Sequential(
            nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 32, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 16),
        )  # fmt: skip
        signs = torch.cat([torch.eye(8), -torch.eye(8)])
        second = torch.cat([signs, 0.8 * signs[::2], 0.01 * torch.randn(8, 8)]) + 0.05 * torch.randn(32, 8)
        classes = torch.eye(16)
        head = 2 * torch.cat([classes, 0.5 * classes[::2], torch.zeros(8, 16)])
        place = torch.randperm(32)
        with torch.no_grad():
            self.net[0].weight.copy_((torch.eye(8) + 0.05 * torch.randn(8, 8)).view(8, 8, 1, 1))
            self.net[1].bias.fill_(2.0)
            self.net[3].weight.copy_(second[place].view(32, 8, 1, 1))
            self.net[7].weight.copy_(head[place].T)
        generator = torch.Generator().manual_seed(0)
        self.classes = torch.randint(16, (1024,), generator=generator)
        noise = torch.randn(1024, 8, 1, 1, generator=generator) + torch.randn(
            1024, 8, 4, 4, generator=generator
        )
        self.images = 0.3 * noise
        bright = torch.where(self.classes < 8, 1.5, -1.5)
        self.images[torch.arange(1024), self.classes % 8] += bright[:, None, None]

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Does nothing: the held-out images are for methods."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), self.lr, momentum=0.9)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(
            TensorDataset(self.images[:768], self.classes[:768]), batch_size=64, shuffle=True,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(self.images[768:], self.classes[768:]), batch_size=64)


@pytest.fixture
def known() -> Callable[..., Known]:
    """(seed, lr) -> the module of ``Known``; with a rate of almost 0 its weights hardly change."""
    return lambda seed, lr=1e-9: Known(seed, lr)


@pytest.fixture
def learned_widths() -> Callable[..., dict[str, int]]:
    """(method that learns, module of ``Known``, epochs) -> the widths that it decides after learning."""

    def learned(method: LearningMethod, module: Known, epochs: int) -> dict[str, int]:
        example = torch.zeros(1, 8, 4, 4)
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", callbacks=[PruningCallback(method, example_input=example)],
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module)
        calibration = [tuple(batch) for batch in module.train_dataloader()]
        context = method.context(module.net, example, calibration, validation=module.val_dataloader())
        plan = method.decide(context)
        graph = method.structure(module.net, example)
        assert graph.cost.flops(plan) <= method.budget.keep * graph.cost.flops()
        return {name: after for name, (_, after) in plan.widths.items()}

    return learned


@pytest.fixture
def relu_maps(plain: nn.Module, batches: Any, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The outputs of the two ReLUs of ``plain`` for all images."""
    maps: list[Tensor] = []
    relu = functional.relu
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(functional, "relu", lambda tensor: maps.append(relu(tensor)) or maps[-1])
        plain(torch.cat([images for images, _ in batches]))
    return maps
