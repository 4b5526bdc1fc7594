"""Studies for the page: small ones with all features, and a large one made from a real record."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
REAL_RECORDS = ROOT / "experiments/cifar10_resnet20/records"
METHODS = (
    "l1",
    "l2",
    "fpgm",
    "bn_gamma",
    "taylor",
    "apoz",
    "entropy",
    "random",
    "hrank",
    "sfp",
    "thinet",
    "ssl",
)
KEEPS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
SEEDS = 5
EPOCHS = 40
CURVES_HEADER = "phase,epoch,learning_rate,train/loss,train/top1,val/loss,val/top1,val/top5\n"

WriteStudy = Callable[[Path, int], None]


@pytest.fixture(scope="session")
def write_large_study() -> WriteStudy:
    """Writes a number of runs of other methods, budgets and seeds, with curves of 40 epochs, into a folder."""
    return _write_study


def _write_study(folder: Path, runs: int) -> None:
    real = json.loads(min(REAL_RECORDS.glob("*/record.json")).read_text(encoding="utf-8"))
    chance = random.Random(0)
    for number in range(runs):
        row, seed = divmod(number, SEEDS)
        names = METHODS[row % len(METHODS)], KEEPS[row // len(METHODS) % len(KEEPS)], seed
        _write_run(folder / f"{number:012x}", real, *names, chance)


def _write_run(
    folder: Path, real: Mapping[str, Any], method: str, keep: float, seed: int, chance: random.Random
) -> None:
    full = real["baseline"]
    share = keep * chance.uniform(0.99, 1.0)
    top1 = full["top1"] - 0.2 * (1 - keep) ** 2 - chance.uniform(0, 0.02)
    costs = {name: round(full[name] * share) for name in ("flops", "macs", "params")}
    times = {size: time * (0.3 + 0.7 * share) for size, time in full["latency_ms"].items()}
    widths = {
        group: [before, max(1, round(before * share * chance.uniform(0.7, 1)))]
        for group, (before, _) in real["plan"]["widths"].items()
    }
    changes = {
        "key": folder.name,
        "method": method,
        "seed": seed,
        "budget": real["budget"] | {"keep": keep, "reached": share},
        "pruned": full | costs | {"top1": top1, "latency_ms": times},
        "plan": real["plan"] | {"widths": widths},
    }
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps({**real, **changes}), encoding="utf-8")
    rows = (
        f"recovery,{epoch},{0.1 / epoch:.6g},{2 / epoch:.6g},{top1 * (1 - 0.5 / epoch):.6g}"
        for epoch in range(1, EPOCHS + 1)
    )
    (folder / "curves.csv").write_text(
        CURVES_HEADER + "".join(f"{row},,{row.rpartition(',')[2]},\n" for row in rows)
    )
