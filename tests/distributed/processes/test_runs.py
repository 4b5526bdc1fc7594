"""Runs with four processes, started by Lightning: they have the result of one process, or stop together.

The network has no batch statistics, whose rounding errors grow with each step; tests/training/test_whole_batch.py
compares trainings with batch normalisation in float64.
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from prunelab.records import Record

pytestmark = pytest.mark.ddp

COMMAND = Path(__file__).with_name("command.py")
METHODS = ("l1", "hrank", "taylor", "slimming")
WORDS = [
    "model=timm", "model.name=network_of_three", "budget.flops=0.5", "study=runs", "baseline.training.epochs=2",
    "recipe.training.epochs=2", "trainer.accelerator=cpu", "trainer.threads=1", "+learning_epochs=1",
]  # fmt: skip
SECONDS = 600
"""Much less than the half hour after which waiting processes would give up."""

IMAGES = 360
"""Test images of the digits."""


def prunelab(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, str(COMMAND), "-m", *WORDS, *words]
    variables = {**inherited, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=folder, env=variables, capture_output=True, text=True, timeout=SECONDS, check=False
    )


def records(folder: Path) -> dict[str, Record]:
    files = (folder / "outputs" / "runs").glob("*/record.json")
    return {record.method: record for record in (Record.from_json(file.read_text()) for file in files)}


def curves(folder: Path, key: str) -> list[list[float]]:
    with (folder / "outputs" / "runs" / key / "curves.csv").open(newline="") as lines:
        return [
            [float(row[name]) for name in ("train/loss", "val/loss", "val/top1")]
            for row in csv.DictReader(lines)
        ]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    done = prunelab(folder, f"method={','.join(METHODS)}")
    assert done.returncode == 0, done.stderr
    return folder


def several(folder: Path, processes: int, methods: Sequence[str]) -> subprocess.CompletedProcess[str]:
    words = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}"]
    return prunelab(folder, f"method={','.join(methods)}", *words)


def assert_same(several: Path, one: Path) -> None:
    ours, theirs = records(several), records(one)
    assert set(ours) == set(theirs) == set(METHODS)
    for method, expected in theirs.items():
        found = ours[method]
        assert found.key == expected.key
        assert (found.plan.digest, found.pruned.flops) == (expected.plan.digest, expected.pruned.flops), (
            method
        )
        for name in ("baseline", "after_pruning", "pruned"):
            top1 = getattr(expected, name).top1
            assert getattr(found, name).top1 == pytest.approx(top1, abs=1.01 / IMAGES), (method, name)
        rows = curves(one, expected.key)
        assert len(rows) >= 2
        for seen, row in zip(curves(several, expected.key), rows, strict=True):
            assert seen == pytest.approx(row, rel=1e-3, abs=1e-4), method


def test_four_processes_have_the_result_of_one_or_stop_together(alone: Path, tmp_path: Path) -> None:
    """l2: rank 1 fails in the middle of a training, while the others wait for its gradients; fpgm: other weights.

    The sweep continues after both, and the other runs have the result of one process.
    """
    done = several(tmp_path, 4, ["l1", "hrank", "l2", "fpgm", "taylor", "slimming"])
    assert done.returncode == 1
    assert done.stdout.count("4 finished, 0 already there, 2 failed.") == 1
    assert "terminate called" not in done.stderr
    assert len(list((tmp_path / "outputs" / "baselines").iterdir())) == 1
    failed, differed = (line for line in done.stderr.splitlines() if line.startswith("prunelab: "))
    assert "method=l2" in failed
    assert failed.endswith("rank 1: RuntimeError: no room on this card")
    assert "method=fpgm" in differed
    assert "rank 1: The baseline" in differed and "no longer belongs to this network" in differed
    assert len(list(tmp_path.glob("outputs/runs/*/failure.json"))) == 2
    assert_same(tmp_path, alone)
