"""One rank of a training on a device that other ranks use: ``ranks_on_one_card.py FOLDER RANKS BACKEND ACCELERATOR``.

Each rank is started as a machine of its own (NODE_RANK, MASTER_ADDR, MASTER_PORT), because Lightning accepts each
device of a machine once. Rank zero writes the weights and buffers after two epochs into FOLDER/RANKS_BACKEND.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DDPStrategy
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.data import Digits
from prunelab.distributed import is_rank_zero
from prunelab.training import Machine, Training, fit

BATCH = 60


class Network(nn.Module):
    """Batch normalisations in each dimension, one with an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = BatchNormAct2d(8)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.hidden = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU())
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.norm(self.stem(images)))
        return self.head(self.hidden(maps.mean(dim=(2, 3))))


class Layers(pl.Callback):
    """Records the classes of the normalisations during the training."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.names = norms(pl_module)


def norms(network: nn.Module) -> list[str]:
    """The classes of the batch normalisations."""
    return sorted(type(module).__name__ for module in network.modules() if isinstance(module, _BatchNorm))


def main(folder: Path, ranks: int, backend: str, accelerator: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network, layers = Network(), Layers()
    strategy: Any = DDPStrategy(process_group_backend=backend) if ranks > 1 else "auto"
    machine = Machine(
        accelerator=accelerator, devices=1, num_nodes=ranks, strategy=strategy, precision="64-true"
    )
    training = Training(epochs=2, lr=0.02)
    data = Digits(batch_size=BATCH // ranks)
    name = f"{ranks}_{backend}"
    fit(
        network,
        data,
        training,
        machine=machine,
        seed=3,
        folder=folder / name,
        title="test",
        callbacks=[layers],
    )
    if is_rank_zero():
        state = {key: tensor.cpu() for key, tensor in network.state_dict().items()}
        torch.save({"state": state, "during": layers.names, "after": norms(network)}, folder / f"{name}.pt")
    if ranks > 1:
        torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
