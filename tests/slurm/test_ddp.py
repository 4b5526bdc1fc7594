"""Several processes for one run, started by Slurm."""

from __future__ import annotations

import subprocess
from pathlib import Path

from sweep import PRUNELAB, SECONDS, Sweep

from prunelab.records import Record

RUN = [
    "model=lenet5", "data.image_size=28", "budget.flops=0.5", "method=l1", "baseline.training.epochs=1",
    "recipe.training.epochs=1", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "trainer.threads=1",
]  # fmt: skip


def records(study: Path) -> list[Record]:
    return [Record.from_json(file.read_text()) for file in study.glob("*/record.json")]


def test_a_job_with_two_processes(cluster: dict[str, str], tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "ddp", cluster, [*RUN, "method=taylor", "hydra.launcher.minutes=10"])
    assert sweep.end() == 0, sweep.err
    (record,) = records(sweep.study)
    assert [path.name for path in sweep.study.glob("[!.]*/")] == [record.key]
    assert record.plan.masked_vs_pruned < 1e-6
    assert len(list((tmp_path / "outputs" / "baselines").iterdir())) == 1
    outputs = [file.read_text() for file in sorted((sweep.study / ".slurm").glob("*_log.out"))]
    assert ["global_rank=0(2)" in outputs[0], "global_rank=1(2)" in outputs[1]] == [True, True]
    assert "taylor on lenet5" in outputs[0] and "taylor on lenet5" not in outputs[1]


def test_a_sweep_inside_a_job(cluster: dict[str, str], tmp_path: Path) -> None:
    """Two processes that the user has started with srun do two runs together."""
    srun = ["srun", "--ntasks=2", "--ntasks-per-node=2", "--kill-on-bad-exit=1", "--job-name=sweep"]
    command = [*srun, *PRUNELAB, "-m", *RUN, "method=l1", "seed=0,1", "study=inside"]
    done = subprocess.run(
        command, cwd=tmp_path, env=cluster, capture_output=True, text=True, timeout=SECONDS, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("2 finished, 0 already there, 0 failed.") == 1
    assert sorted(record.seed for record in records(tmp_path / "outputs" / "inside")) == [0, 1]
    assert len(list((tmp_path / "outputs" / "baselines").iterdir())) == 2
