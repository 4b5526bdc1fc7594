"""Which settings of a trainer change a result beyond rounding, and are therefore part of the key of a run?

    OMP_NUM_THREADS=1 python experiments/benchmarks/same_result.py

A small network with batch normalisation is trained on the digits with several seeds under each setting of Machine. A
setting that only rounds differently has a deviation after one step near the precision of float32, and accuracies that
spread around those of the reference as two trainings with rounding differences do. Writes records/same_result.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pytorch_lightning as pl
import torch
from timing import machine
from torch import nn

from prunelab.data import Digits
from prunelab.distributed import is_rank_zero
from prunelab.training import Machine, Training, fit

RECORD = Path(__file__).parent / "records" / "same_result.json"
BATCH, TRAINING = 64, Training(epochs=4, lr=0.05)
REFERENCE = "one process, one thread, float32"
SETTINGS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "the same again": {},
    "2 processes": {"devices": 2},
    "2 processes, sync_batchnorm=false": {"devices": 2, "sync_batchnorm": False},
    "channels_last": {"channels_last": True},
    "compile": {"compile": True},
    "precision=bf16-mixed": {"precision": "bf16-mixed"},
    "precision=64-true": {"precision": "64-true"},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument(
        "--one", nargs=2, metavar=("SETTING", "FOLDER"), help="internal: all seeds of a setting"
    )
    given = parser.parse_args()
    if given.one:
        _train(*given.one, given.seeds)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in SETTINGS:
            command = [sys.executable, __file__, "--seeds", str(given.seeds), "--one", name, folder]
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = {name: torch.load(Path(folder) / f"{name}.pt") for name in SETTINGS}
    rows = {name: _compared(each, found[REFERENCE]) for name, each in found.items()}
    RECORD.write_text(
        json.dumps({"machine": machine("torch", "prunelab"), "settings": rows}, indent=1) + "\n"
    )
    for name, row in rows.items():
        accuracy = f"{row['mean']:6.2f} +- {row['sd']:.2f} %"
        change = f"{row['change']:+.2f} (largest {row['largest']:.2f})"
        print(
            f"{name:36s} after one step {row['after_one_step']:.1e}   accuracy {accuracy}   same seed: {change}"
        )


def _train(name: str, folder: str, seeds: int) -> None:
    """Writes the weights after one step, and the accuracies of all seeds (percent)."""
    settings = Machine(accelerator="cpu", **{"threads": 1, **SETTINGS[name]})
    settings.prepare_process()
    batch = BATCH // int(SETTINGS[name].get("devices", 1))
    accuracies, weights = [], torch.zeros(0)
    for seed in range(seeds):
        if seed == 0:  # one step
            network = _network(seed)
            first = replace(settings, batches=1)
            fit(network, Digits(batch_size=batch), TRAINING, machine=first, seed=seed, folder=Path(folder) / f"{name}1",
                title="one step")  # fmt: skip
            weights = torch.cat([each.detach().double().flatten() for each in network.parameters()])
        network, data = _network(seed), Digits(batch_size=batch, seed=seed)
        fit(network, data, TRAINING, machine=settings, seed=seed, folder=Path(folder) / f"{name}{seed}of",
            title=f"{name} {seed}")  # fmt: skip
        if is_rank_zero():
            accuracies.append(100 * _accuracy(network, data))
    if is_rank_zero():
        torch.save({"weights": weights, "accuracies": accuracies}, Path(folder) / f"{name}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _network(seed: int) -> nn.Module:
    pl.seed_everything(seed, verbose=False)
    widths, layers = (1, 8, 16, 16), []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


@torch.no_grad()
def _accuracy(network: nn.Module, data: Digits) -> float:
    """Test accuracy, in one process and float32."""
    network.eval().float()
    images, classes = data.test.source.batch(data.test.indices, None)
    return float((network(images).argmax(dim=1) == classes).float().mean())


def _compared(found: dict[str, Any], reference: dict[str, Any]) -> dict[str, float]:
    """The relative change of the weights in one step by a setting, and that of the accuracy of the whole training."""
    step = found["weights"] - reference["weights"]
    changes = [
        ours - theirs for ours, theirs in zip(found["accuracies"], reference["accuracies"], strict=True)
    ]
    return {
        "after_one_step": float(step.norm() / reference["weights"].norm()),
        "mean": round(mean(found["accuracies"]), 3),
        "sd": round(stdev(found["accuracies"]), 3),
        "change": round(mean(changes), 3),
        "largest": round(max(map(abs, changes)), 3),
    }


if __name__ == "__main__":
    main()
