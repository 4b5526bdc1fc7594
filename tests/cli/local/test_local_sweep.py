"""hydra/launcher=local: the share of each process, and the sweep after the death of one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Sweeps

pytestmark = pytest.mark.slow

LAUNCHER = "hydra/launcher=local"
JOBS = "hydra.launcher.jobs={}"
LOGGER = """
import json, os, signal
from pathlib import Path
from prunelab.tracking import RunLogger

class Deadly(RunLogger):
    def begin(self, folder, config):
        names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
        Path(f"share-{config['seed']}.json").write_text(json.dumps([os.environ.get(name) for name in names]))
        if config["seed"] == 1 and not Path("saved").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        if config["seed"] == 2 and not Path("saved").exists():
            raise SystemExit(143)  # as a training ends after SIGTERM
"""


def test_each_process_has_its_share_and_a_killed_one_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deadly.py").write_text(LOGGER)
    command = [
        sys.executable, "-c", "from prunelab.cli.run import main; main()", "-m", LAUNCHER, "hydra.launcher.gpus=[4,6]",
        "hydra.launcher.threads=1", "trainer=cpu", "budget.flops=0.5", "method=l1", "seed=0,1,2", "fast_dev_run=1",
        "logger._target_=deadly.Deadly", "study=mine",
    ]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }

    def sweep(jobs: int) -> subprocess.CompletedProcess[str]:
        words = [*command, JOBS.format(jobs)]
        return subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    first = sweep(2)
    assert first.returncode == 1, first.stderr
    assert "Finished:\n  seed=0\n1 finished, 0 already there, 2 failed." in first.stdout
    assert "prunelab: seed=2: its process received SIGTERM. The same command" in first.stderr
    assert "prunelab: seed=1: its process was killed (SIGKILL(-9))" in first.stderr
    assert "[3 of 3] seed=" in first.stderr
    shares = {file.read_text() for file in tmp_path.glob("share-*.json")}
    assert shares == {'["4", "1"]', '["6", "1"]'}

    (tmp_path / "saved").touch()
    second = sweep(1)
    assert second.returncode == 0, second.stderr
    assert "2 finished, 1 already there, 0 failed." in second.stdout


def test_ctrl_c_stops_all_processes_and_the_same_command_continues(sweeps: Sweeps, tmp_path: Path) -> None:
    words = (LAUNCHER, JOBS.format(2), "seed=0,1,2", "baseline.training.epochs=30")
    started = sweeps.start(tmp_path, *words)
    while len({file.parent for file in tmp_path.glob("outputs/baselines/*/training/epoch-*.ckpt")}) < 2:
        time.sleep(0.02)
    os.kill(started.pid, signal.SIGINT)
    assert sweeps.wait(started) == 130, started.said()
    assert started.said().endswith("\nprunelab: stopped. The same command continues from here.\n")
    assert "Traceback" not in started.said()
    with pytest.raises(ProcessLookupError):  # no process of its group is left
        os.killpg(started.pid, 0)
    left = {path.name for path in (tmp_path / "outputs").rglob("*")}
    assert not left & {"record.json", "metrics.json", "failure.json"}
    assert "3 finished, 0 already there, 0 failed." in sweeps.run(tmp_path, *words)
