"""A run with trainer=ddp on one GPU: torch.distributed over nccl in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from prunelab.records import Record

WORDS = (
    "budget.flops=0.5", "method=l1", "data=digits", "baseline.training.epochs=1", "recipe.training.epochs=1",
    "study=runs", "trainer.devices=1", "trainer.sync_batchnorm=true",
)  # fmt: skip
MAIN = "from prunelab.cli.run import main; main()"


def test_a_run_over_nccl(tmp_path: Path) -> None:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    found = {}
    for trainer in ("ddp", "auto"):
        for method in ("hrank", "slimming"):
            more = ["method.epochs=1"] if method == "slimming" else []
            words = [*WORDS[:-1], f"method={method}", f"trainer={trainer}", "trainer.accelerator=gpu", *more]
            words += [WORDS[-1]] if trainer == "ddp" else []
            done = subprocess.run(
                [sys.executable, "-c", MAIN, *words, f"outputs={tmp_path / trainer}"],
                cwd=tmp_path, env={**variables, "NCCL_DEBUG": "VERSION"}, capture_output=True, text=True,
                timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            if trainer == "ddp":
                assert "nccl" in done.stderr.lower() + done.stdout.lower()
            (file,) = (
                path
                for path in (tmp_path / trainer / "runs").glob("*/record.json")
                if Record.from_json(path.read_text()).method == method
            )
            found[trainer, method] = Record.from_json(file.read_text())
    for method in ("hrank", "slimming"):
        assert found["ddp", method].pruned.flops == found["auto", method].pruned.flops
