"""A user's script that Lightning runs as two processes: ``python two_ranks.py FOLDER``. Each rank writes its data.

Imported, it provides the same module, loader and methods for one process.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.errors import UserError
from prunelab.methods import (
    Budget,
    Criterion,
    Entropy,
    ImportanceMethod,
    L1Norm,
    PruningCallback,
    PruningContext,
    Scores,
    Taylor,
)

CRITERIA: dict[str, Criterion] = {"l1": L1Norm(), "entropy": Entropy(bins=10), "taylor": Taylor()}
"""One of each kind of input; all methods: ``test_battery``."""


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@dataclass(frozen=True)
class FailsOnRankOne(Criterion):
    reads: ClassVar = "weights"

    def score(self, context: PruningContext) -> Scores:
        if rank() == 1:
            raise UserError("no scores here")
        return L1Norm().score(context)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    """Five batches: three for rank 0, two for rank 1."""
    generator = torch.Generator().manual_seed(1)
    images, targets = (
        torch.randn(40, 2, 5, 5, generator=generator),
        torch.randint(3, (40,), generator=generator),
    )
    return DataLoader(TensorDataset(images, targets), batch_size=8, shuffle=True)


def method(criterion: Criterion, **settings: int) -> ImportanceMethod:
    return ImportanceMethod(criterion, Budget(flops=0.5), seed=2, **settings)


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def fit(module: Module, method: ImportanceMethod) -> str:
    """The digest of the plan, or the message of the error."""
    callback = PruningCallback(method)
    trainer = pl.Trainer(
        strategy="ddp",
        accelerator="cpu",
        devices=2,
        max_steps=1,
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader())
    except UserError as error:
        return str(error)
    assert callback.plan is not None
    return callback.plan.digest()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    seen = {name: fit(Module(), method(criterion)) for name, criterion in CRITERIA.items()}
    seen["one batch for two ranks"] = fit(Module(), method(Entropy(bins=5), images=8))
    module = Module()
    module.net[0].weight.data += rank() * torch.randn_like(module.net[0].weight)
    seen["other weights"] = fit(module, method(L1Norm()))
    seen["failure"] = fit(Module(), method(FailsOnRankOne()))
    (folder / f"rank{rank()}.json").write_text(json.dumps(seen))
    if torch.distributed.is_initialized():  # its threads must not outlive the interpreter
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
