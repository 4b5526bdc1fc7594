"""A user's script that Lightning runs as two processes: ``python two_ranks_learn.py FOLDER``. Each rank writes the
weights that each method learned and the plan that it decided.

Imported, it computes the same answers in one process with the same images in each step.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parents[1]))

import battery

from prunelab.methods import LearningMethod, PruningCallback

STEP_IMAGES = 8  # of all ranks together
STRONG = {"strength": 0.05, "filters": 0.1, "channels": 0.1, "last_scale": 5.0, "sampler_lr": 0.05}


def methods() -> dict[str, LearningMethod]:
    """Every choice of conf/method that learns, with penalties strong enough to move weights in a few steps."""
    return {
        name: battery.made(
            name, **{key: value for key, value in STRONG.items() if key in battery.settings(name)}
        )
        for name in battery.METHODS
        if battery.learns(name)
    }


class Norm(nn.BatchNorm2d):
    """Uses its running statistics also in training, so that no image depends on the others of its rank."""

    def forward(self, maps: Tensor) -> Tensor:
        statistics = (self.running_mean, self.running_var)
        return functional.batch_norm(maps, *statistics, self.weight, self.bias, False, 0.0, self.eps)


class Module(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 8, 3), Norm(8), nn.ReLU(), nn.Conv2d(8, 6, 3), Norm(6), nn.ReLU(),
            nn.Flatten(), nn.Linear(6, 2),
        )  # fmt: skip
        for norm in (self.net[1], self.net[4]):
            norm.weight.data.uniform_(0.2, 1.0)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def images(seed: int, count: int) -> Tensor:
    return torch.randn(count, 2, 5, 5, generator=torch.Generator().manual_seed(seed))


def classes(found: Tensor) -> Tensor:
    return (found[:, 0].mean(dim=(1, 2)) > found[:, 1].mean(dim=(1, 2))).long()


def fit(module: Module, callback: PruningCallback, ranks: int, epochs: int) -> None:
    """Images are assigned in turn, so that in each step all ranks together have the images of one process."""
    several: dict[str, Any] = {"strategy": "ddp", "devices": ranks} if ranks > 1 else {}
    found = images(1, 5 * STEP_IMAGES)[rank() if ranks > 1 else 0 :: ranks]
    loader = DataLoader(TensorDataset(found, classes(found)), batch_size=STEP_IMAGES // ranks)
    trainer = pl.Trainer(
        accelerator="cpu", max_epochs=epochs, callbacks=[callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, **several,
    )  # fmt: skip
    pl.seed_everything(5, verbose=False)
    trainer.fit(module, loader)


def rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def answers(ranks: int = 1) -> dict[str, Any]:
    """For each method the weights that it learned and its plan."""
    answers = {}
    for name, method in methods().items():
        held_out = [(batch, classes(batch)) for batch in images(2, 48).split(STEP_IMAGES // ranks)]
        module, callback = Module(), PruningCallback(method, validation=held_out)
        fit(module, callback, ranks, epochs=3)
        learned = [tensor.flatten().tolist() for _, tensor in sorted(module.net.state_dict().items())]
        fit(module, callback, ranks, epochs=1)  # prunes
        assert callback.plan is not None
        answers[name] = {"plan": callback.plan.digest(), "weights": list(chain.from_iterable(learned))}
    return answers


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = answers(ranks=2)
    (folder / f"rank{rank()}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]))
