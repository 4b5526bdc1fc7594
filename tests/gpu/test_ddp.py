"""A run with trainer=ddp on one GPU: torch.distributed over nccl in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prunelab.records import Record

WORDS = (
    "budget.flops=0.5", "data=digits", "baseline.training.epochs=1", "recipe.training.epochs=1", "study=runs",
    "trainer.devices=1",
)  # fmt: skip
MAIN = "from prunelab.cli.run import main; main()"


@pytest.mark.parametrize("method", ["hrank", "slimming"])
def test_a_run_over_nccl(method: str, tmp_path: Path, device: torch.device) -> None:
    """Sums over processes of statistics, logs and accuracies take place, with the GPU's tensors."""
    on_gpu = device.type == "cuda"
    learning = ["method.epochs=1"] if method == "slimming" else []
    place = f"trainer.accelerator={'gpu' if on_gpu else 'cpu'}"
    ddp = ["trainer=ddp", *(["trainer.sync_batchnorm=true"] if on_gpu else [])]
    records = {}
    for name, words in {"ddp": ddp, "one process": ["trainer=auto"]}.items():
        outputs = tmp_path / name.replace(" ", "_")
        done = run([*words, place, *WORDS, f"method={method}", *learning, f"outputs={outputs}"], tmp_path)
        assert done.returncode == 0, done.stderr
        if name == "ddp" and on_gpu:
            assert "nccl version" in (done.stderr + done.stdout).lower()
        (file,) = (outputs / "runs").glob("*/record.json")
        records[name] = Record.from_json(file.read_text())
    assert records["ddp"].pruned.flops == records["one process"].pruned.flops
    assert records["ddp"].pruned.top1 > 0.2


def run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    return subprocess.run(
        [sys.executable, "-c", MAIN, *words],
        cwd=folder,
        env={**variables, "NCCL_DEBUG": "VERSION"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
