"""Calibrates a small network as one of several ranks: ``python two_ranks.py FOLDER RANK RANKS``. Writes its weights.

Imported, ``calibrated`` does the same in one process.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunelab.calibration import BatchNorm, Bias, Blockwise, Distil, LeastSquares, Pair, Step
from prunelab.methods import OBS, Budget, Calibration, Fisher, ImportanceMethod
from prunelab.structure import analyze, apply

STEPS: dict[str, Step] = {
    "bn": BatchNorm(),
    "bias": Bias(),
    "least_squares": LeastSquares(sequential=False, positions=8),
    "sequential": LeastSquares(positions=8),
    "blockwise": Blockwise(steps=4, batch=7),
    "distil": Distil(steps=4, batch=7, mix=True),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    ).eval()  # fmt: skip


def batches() -> list[tuple[Tensor, None]]:
    """Five batches: three for rank 0 of two, two for rank 1."""
    images = torch.randn(40, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    return [(batch, None) for batch in images.split(8)]


def results(rank: int = 0, ranks: int = 1) -> dict[str, Tensor]:
    """Weights after each step, and the scores of the criteria, on a rank."""
    full = network()
    graph = analyze(full, torch.zeros(1, 3, 10, 10))
    plan = graph.plan({group.name: list(range(group.size - 2)) for group in graph.groups})
    share = Calibration(batches(), 40, rank=rank, ranks=ranks)
    images = [images for images, _ in share.batches(torch.device("cpu"))]
    found: dict[str, Tensor] = {}
    for name, step in STEPS.items():
        pruned = apply(copy.deepcopy(full), plan)
        step(Pair(full, pruned, plan, images, torch.zeros(1, 3, 10, 10)))
        found |= {f"{name} {key}": value.double() for key, value in pruned.state_dict().items()}
    for criterion in (Fisher(), OBS()):
        method = ImportanceMethod(criterion, Budget(flops=0.5), images=40)
        scores = criterion.score(method.context(full, torch.zeros(1, 3, 10, 10), batches()))
        found |= {f"{type(criterion).__name__} {k}": torch.from_numpy(v) for k, v in scores.channels.items()}
    return found


if __name__ == "__main__":
    folder, rank, ranks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=ranks)
    torch.save(results(rank, ranks), folder / f"{rank}.pt")
    dist.destroy_process_group()
