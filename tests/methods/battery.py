"""Common parts of the laws of all methods: every choice of conf/method, small networks and images, and decisions.

A new YAML file in conf/method is tested automatically. Run as ``python battery.py RANK STORE FOLDER`` it is one of two
processes, and writes the decision of each method that needs no training.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from prunelab.cli.config import configure_part
from prunelab.methods import LearningMethod, PruningCallback, PruningContext, PruningMethod
from prunelab.structure import PruningPlan

CONF = Path(__file__).parents[2] / "conf"
METHODS = sorted(file.stem for file in (CONF / "method").glob("*.yaml"))
EXAMPLE = torch.zeros(1, 2, 6, 6)

SMALL = {"candidates": 4, "draws": 3000, "tolerance": 0.3, "epochs": 1, "validation_images": 40}
"""Settings that make a method fast, for methods that have them."""

SMALL_SEARCH: dict[str, dict[str, Any]] = {
    "abcpruner": {"training": None, "sources": 3, "cycles": 1},
    "amc": {"episodes": 6, "warmup": 4},
    "metapruning": {"population": 6, "generations": 2, "parents": 2, "mutants": 2, "crossovers": 2},
    "network_adjustment": {"training": None, "iterations": 2, "repeats": 1},
}
"""The same for searches, by their names; candidates are not trained."""


@cache
def settings(name: str) -> dict[str, Any]:
    """The settings of a choice, as they are in the file and with the references to other settings resolved."""
    return configure_part("method", [f"method={name}", "budget.flops=0.5", "recipe.calibration_images=40"])


def made(name: str, **changes: Any) -> PruningMethod:
    """The method of a choice, with ``changes`` to its settings; a key of a group of settings is given as "group.key", a
    budget as budget=("flops", 0.5)."""
    chosen = copy.deepcopy(settings(name))
    chosen.pop("module", None)
    chosen |= {key: value for key, value in SMALL.items() if key in chosen} | SMALL_SEARCH.get(name, {})
    if (budget := changes.pop("budget", None)) is not None:
        chosen["budget"] |= {"flops": None, "params": None, budget[0]: budget[1]}
    config = OmegaConf.create(chosen)
    for key, value in changes.items():
        OmegaConf.update(config, key, value)
    return instantiate(config, _convert_="all")


@cache
def class_of(name: str) -> type[PruningMethod]:
    """The class of a choice, from its files alone: composing all choices takes seconds in each test process."""
    return get_class(_target(CONF / "method" / f"{name}.yaml"))


def _target(file: Path) -> str:
    """The class that a file names, or else the file that it includes."""
    settings = OmegaConf.load(file)
    if "_target_" in settings:
        return settings["_target_"]
    included = [str(each).partition("@")[0].lstrip("/") for each in settings["defaults"] if each != "_self_"]
    return _target(CONF / f"{included[0]}.yaml")


def learns(name: str) -> bool:
    """Whether a method learns in a training of the full network."""
    return issubclass(class_of(name), LearningMethod)


def decides_untrained(name: str) -> bool:
    """Whether a method decides without a learning fit."""
    return getattr(class_of(name), "decides_untrained", True)


def images(seed: int = 1, count: int = 5) -> list[tuple[Tensor, Tensor]]:
    """Batches of 8 images with classes."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 2, 6, 6, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


def drawn(network: nn.Module) -> nn.Module:
    """Weights, biases, scales and running statistics all different, the same in every test; evaluation mode."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.uniform_(-0.2, 0.5, generator=generator)
            module.running_mean.uniform_(-0.5, 0.5, generator=generator)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
        elif isinstance(module, nn.Conv2d | nn.Linear):
            module.weight.data.normal_(0, 0.5, generator=generator)
            if module.bias is not None:
                module.bias.data.uniform_(-0.1, 0.1, generator=generator)
    return network.eval()


class Block(nn.Module):
    """y = relu(x + f(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = functional.relu(self.norm1(self.conv1(maps)))
        return functional.relu(maps + self.norm2(self.conv2(hidden)))


class Residual(nn.Module):
    """A stem and two blocks of one stage of eight channels."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(2, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 3)

    def forward(self, maps: Tensor) -> Tensor:
        return self.head(self.blocks(functional.relu(self.norm(self.stem(maps)))).mean(dim=(2, 3)))


def with_copies(network: nn.Module, originals: Sequence[int], copies: Sequence[int]) -> nn.Module:
    """Makes the channels ``copies`` of every group of a ``Residual`` exact copies of ``originals``."""
    for module in network.modules():
        tensors = (
            [tensor.detach() for tensor in module.state_dict().values()] if not [*module.children()] else []
        )
        for tensor in tensors:
            if tensor.dim() and tensor.shape[0] == 8:
                tensor[copies] = tensor[originals]
            if tensor.dim() > 1 and tensor.shape[1] == 8:
                tensor[:, copies] = tensor[:, originals]
    return network


class TwoHalves(nn.Module):
    """Channels at two positions of the tensor that the next layer reads: relu(h) and relu(-h), in one of two
    orders. Both orders compute the same function."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        self.swapped = swapped
        self.conv1, self.norm1 = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(12, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.norm1(self.conv1(maps))
        halves = [hidden, -hidden]
        both = functional.relu(torch.cat(halves[::-1] if self.swapped else halves, dim=1))
        return self.head(functional.relu(self.norm2(self.conv2(both))).mean(dim=(2, 3)))


def two_halves() -> tuple[nn.Module, nn.Module]:
    """The same function twice, with the two halves in either order."""
    first, second = drawn(TwoHalves(False)), TwoHalves(True).eval()
    second.load_state_dict(first.state_dict())
    weight = first.conv2.weight.data  # type: ignore[union-attr]
    second.conv2.weight.data = torch.cat([weight[:, 6:], weight[:, :6]], dim=1)
    return first, second


class Module(pl.LightningModule):
    """Trains a network with plain SGD."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def learn(method: PruningMethod, network: nn.Module) -> None:
    """One epoch of learning in place, if the method learns."""
    if isinstance(method, LearningMethod):
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[PruningCallback(method, validation=images(2, 3))],
        )  # fmt: skip
        trainer.fit(Module(network.train()), DataLoader(images(), batch_size=None))
        network.eval()


def context_of(method: PruningMethod, network: nn.Module, **more: Any) -> PruningContext:
    """The context with calibration and held-out images."""
    return method.context(network, EXAMPLE, images(), validation=images(2, 3), name="net", **more)


def decided(method: PruningMethod, network: nn.Module) -> PruningPlan:
    """The plan for ``network``, after a method that learns has learned."""
    learn(method, network)
    return method.decide(context_of(method, network))


def answers() -> dict[str, str]:
    """For each method that needs no training a digest of its plan and of the resulting weights (six digits)."""
    found = {}
    for name in METHODS:
        if learns(name):
            continue
        method, network = made(name), drawn(Residual())
        context = context_of(method, network)
        plan = method.decide(context)
        method.reconstruct(context, plan)
        weights = [[f"{value:.5e}" for value in tensor.flatten()] for tensor in network.state_dict().values()]
        found[name] = f"{plan.digest()} {hashlib.sha256(json.dumps(weights).encode()).hexdigest()}"
    return found


def main(rank: int, store: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    (folder / f"rank{rank}.json").write_text(json.dumps(answers()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
