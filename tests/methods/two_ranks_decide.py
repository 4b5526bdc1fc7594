"""One of two processes: ``python two_ranks_decide.py RANK STORE FOLDER`` writes what each method decided and adjusted.

Imported, it gives the test the same answers for one process.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from prunelab.methods import (
    FPGM,
    SCSP,
    BNGamma,
    Budget,
    ChannelPruning,
    EagleEye,
    ImportanceMethod,
    L2Norm,
    PruningMethod,
    Random,
    ReconstructionPruning,
    Subspace,
    ThiNet,
)

BUDGET = Budget(flops=0.5)


def methods() -> dict[str, PruningMethod]:
    return {
        "eagleeye": EagleEye(BUDGET, candidates=5, tolerance=0.3, images=40),
        "thinet": ReconstructionPruning(ThiNet(), BUDGET, images=40),
        "channel_pruning": ReconstructionPruning(ChannelPruning(), BUDGET, images=40),
        "subspace": ReconstructionPruning(Subspace(), BUDGET, images=40),
        "l2": ImportanceMethod(L2Norm(), BUDGET),
        "fpgm": ImportanceMethod(FPGM(), BUDGET),
        "bn_gamma": ImportanceMethod(BNGamma(), BUDGET),
        "scsp": ImportanceMethod(SCSP(), BUDGET),
        "random": ImportanceMethod(Random(), BUDGET),
    }


def network() -> nn.Module:
    torch.manual_seed(0)
    norms = nn.BatchNorm2d(8), nn.BatchNorm2d(6)
    for norm in norms:
        norm.weight.data.uniform_(0.5, 1.5)
    layers = (nn.Conv2d(2, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 6, 3), norms[1], nn.ReLU())
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 3)).eval()


def batches(seed: int, count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(8, 2, 5, 5, generator=generator), torch.randint(3, (8,), generator=generator))
        for _ in range(count)
    ]


def answers() -> dict[str, str]:
    """For each method a digest of its plan and of the weights that it left (to six digits)."""
    found = {}
    for name, method in methods().items():
        model = network()
        context = method.context(model, torch.zeros(1, 2, 5, 5), batches(1, 5), validation=batches(2, 3))
        plan = method.decide(context)
        method.reconstruct(context, plan)
        weights = [[f"{value:.5e}" for value in tensor.flatten()] for tensor in model.state_dict().values()]
        found[name] = f"{plan.digest()} {hashlib.sha256(json.dumps(weights).encode()).hexdigest()}"
    return found


def main(rank: int, store: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    (folder / f"rank{rank}.json").write_text(json.dumps(answers()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
