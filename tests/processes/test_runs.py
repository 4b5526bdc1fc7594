"""Runs with two and four processes, which Lightning starts: they come to what one process comes to, or stop together.

The network has no batch statistics, for a process knows its own part of each batch alone (trainer.sync_batchnorm=true
would join the parts, but torch can do so on GPUs only).
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prunelab.records import Record

COMMAND = Path(__file__).with_name("command.py")
METHODS = ("l1", "hrank", "taylor", "slimming")
WORDS = [
    "model=timm", "model.name=network_of_three", "budget.flops=0.5", "study=runs", "baseline.training.epochs=2",
    "recipe.training.epochs=2", "trainer.accelerator=cpu", "trainer.threads=1", "+learning_epochs=1",
]  # fmt: skip
SECONDS = 600
"""Far less than the half hour for which processes that were left waiting would wait."""

IMAGES = 360
"""Test images of the digits."""


def prunelab(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    command = [sys.executable, str(COMMAND), "-m", *WORDS, *words]
    variables = {**inherited, "OMP_NUM_THREADS": "1", **environment}
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
    """Where one process did all runs."""
    folder = tmp_path_factory.mktemp("alone")
    done = prunelab(folder, f"method={','.join(METHODS)}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_come_to_what_one_comes_to(alone: Path, tmp_path: Path, processes: int) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={processes}"]
    done = prunelab(tmp_path, f"method={','.join(METHODS)}", *words)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 finished, 0 already there, 0 failed.") == 1
    assert "terminate called" not in done.stderr
    assert len(list((tmp_path / "outputs" / "baselines").iterdir())) == 1
    ours, theirs = records(tmp_path), records(alone)
    assert set(ours) == set(theirs) == set(METHODS)
    for method, one in theirs.items():
        several = ours[method]
        assert several.key == one.key
        assert (several.plan.digest, several.pruned.flops) == (one.plan.digest, one.pruned.flops), method
        figures = ("baseline", "after_pruning", "pruned")
        assert [getattr(several, name).top1 for name in figures] == pytest.approx(
            [getattr(one, name).top1 for name in figures], abs=1.01 / IMAGES
        ), method
        expected = curves(alone, one.key)
        assert len(expected) >= 2
        for seen, row in zip(curves(tmp_path, one.key), expected, strict=True):
            assert seen == pytest.approx(row, rel=1e-3, abs=1e-4), method


def test_a_process_that_fails_stops_the_others_and_the_sweep_goes_on(tmp_path: Path) -> None:
    words = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "baseline.training.epochs=1"]
    done = prunelab(tmp_path, "method=l1,l2", *words, PRUNELAB_TEST_FAILS="1")
    assert done.returncode == 1
    told = [line for line in done.stderr.splitlines() if line.startswith("prunelab: ")]
    assert len(told) == 2  # each run had processes of its own
    assert all(line.endswith("rank 1: RuntimeError: no room on this card") for line in told)
    assert "0 finished, 0 already there, 2 failed." in done.stdout
    assert not list(tmp_path.glob("outputs/*/*/record.json"))
    assert len(list(tmp_path.glob("outputs/runs/*/failure.json"))) == 2
