"""A training that Lightning runs with some number of processes: ``python two_ranks_fit.py FOLDER PROCESSES``.

Rank zero writes the weights and buffers after three epochs into FOLDER/PROCESSES.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from timm.layers import BatchNormAct2d, DropPath
from torch import Tensor, nn

from prunelab.data import Digits
from prunelab.distributed import is_rank_zero
from prunelab.training import Machine, Training, fit

BATCH = 60


class Network(nn.Module):
    """Batch normalisation with and without an activation of its own, stochastic depth, dropout, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.norm = BatchNormAct2d(8)
        self.branch = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), DropPath(0.3)
        )
        self.maps = nn.Dropout2d(0.2)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.3, batch_first=True)
        self.hidden = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3))
        self.head = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norm(self.stem(images))
        maps = self.maps(torch.relu(maps + self.branch(maps)))
        tokens = torch.nn.functional.avg_pool2d(maps, 4).flatten(2).transpose(1, 2)
        return self.head(self.hidden(self.attention(tokens, tokens, tokens)[0].mean(dim=1)))


def main(folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = Network()
    machine = Machine(accelerator="cpu", devices=processes, precision="64-true")
    data = Digits(batch_size=BATCH // processes)
    training = Training(epochs=3, lr=0.02)
    fit(network, data, training, machine=machine, seed=3, folder=folder / f"fit{processes}", title="test")
    if is_rank_zero():
        torch.save(network.state_dict(), folder / f"{processes}.pt")
    if processes > 1:
        torch.distributed.destroy_process_group()  # its threads must not outlive the interpreter


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
