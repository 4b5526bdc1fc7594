"""A sweep on a real cluster: one job is cancelled, one exceeds its time limit, one fails, and none is lost."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
from pathlib import Path

import pytest
from paced import HURRY
from sweep import PRUNELAB, Sweep

from prunelab.records import Record
from prunelab.records.schema import Failure

METHODS = ("l1", "l2", "random", "apoz")
EPOCHS = 10
RUN = [
    "model=lenet5", "data.image_size=28", "budget.flops=0.5", "method=l1", "baseline.training.epochs=1",
    f"recipe.training.epochs={EPOCHS}", "trainer=cpu", "trainer.threads=1",
]  # fmt: skip
PACED = [*RUN, "logger._target_=paced.Paced"]
WORDS = [*PACED, f"method={','.join(METHODS)}", "hydra.launcher.restarts=20"]


def folders(study: Path) -> dict[str, Path]:
    """The folder of each method's run."""
    found = {}
    for file in study.glob("*/config.yaml"):
        method = re.search(r"^names:\n  method: (\w+)", file.read_text(), re.MULTILINE)
        assert method is not None
        found[method[1]] = file.parent
    return found


def epochs(folder: Path) -> list[int]:
    with (folder / "curves.csv").open(newline="") as lines:
        return [int(row["epoch"]) for row in csv.DictReader(lines) if row["phase"] == "recovery"]


def record(folder: Path) -> Record:
    return Record.from_json((folder / "record.json").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def killed(cluster: dict[str, str], place: Path) -> Sweep:
    """The command of the sweep, killed as soon as it has submitted its jobs."""
    sweep = Sweep(place, "sweep", cluster, WORDS)
    sweep.wait_for("jobs", lambda: sweep.submitted() or sweep.process.poll() is not None)
    sweep.process.send_signal(signal.SIGKILL)
    sweep.process.wait()
    return sweep


@pytest.fixture(scope="module")
def endless(killed: Sweep, cluster: dict[str, str], place: Path) -> Sweep:
    """Another sweep at the same time, of one run that may reach its time limit once."""
    return Sweep(place, "endless", cluster, [*PACED, "method=fpgm", "hydra.launcher.restarts=0"])


@pytest.fixture(scope="module")
def sweep(killed: Sweep, endless: Sweep, cluster: dict[str, str], place: Path) -> Sweep:
    """The same command as the killed one; meanwhile the job of l2 is cancelled."""
    job, said = f"{killed.submitted()}_{METHODS.index('l2')}", killed.err
    sweep = Sweep(place, "sweep", cluster, WORDS)
    sweep.wait_for("jobs", lambda: "earlier start" in sweep.err or sweep.process.poll() is not None)
    assert "4 runs submitted" in said
    checkpoints = "rounds/*/*/epoch-*.ckpt"
    sweep.wait_for("l2", lambda: list(folders(sweep.study).get("l2", place).glob(checkpoints)))
    sweep.slurm("scancel", job)
    sweep.end()
    return sweep


def test_a_command_finds_the_jobs_of_the_one_before(sweep: Sweep) -> None:
    assert "4 jobs of an earlier start" in sweep.err
    assert "submitted" not in sweep.err


def test_failures_are_reported_and_the_others_continue(sweep: Sweep) -> None:
    assert sweep.process.returncode == 1
    assert "2 finished, 0 already there, 2 failed." in sweep.out
    cancelled, failed = sweep.reasons()
    assert "method=l2" in cancelled
    assert re.search(r"Slurm job \d+_1: cancelled with scancel\. See .*_1_0_log\.out", cancelled)
    assert "method=apoz" in failed
    assert failed.endswith("fails on purpose")


def test_a_job_at_its_time_limit_continues_from_its_checkpoint(sweep: Sweep) -> None:
    folder = folders(sweep.study)["random"]
    assert epochs(folder) == list(range(1, EPOCHS + 1))
    (output,) = (file.read_text() for file in (sweep.study / ".slurm").glob("*_2_0_log.out"))
    assert output.count("Starting with JobEnvironment") == 1 + output.count("Requeued job") >= 2
    assert output.count("Job completed successfully") == 1


def test_interruptions_are_no_failures(sweep: Sweep) -> None:
    found = folders(sweep.study)
    assert not (found["l2"] / "failure.json").exists()
    assert Failure.from_json((found["apoz"] / "failure.json").read_text()).error == "fails on purpose"
    assert not [method for method in ("l2", "apoz") if (found[method] / "record.json").exists()]


def test_a_run_that_never_ends_is_abandoned(sweep: Sweep, endless: Sweep) -> None:
    assert endless.end() == 1
    (reason,) = endless.reasons()
    assert "not finished within its time limit, which it reached once." in reason
    folder = folders(endless.study)["fpgm"]
    assert epochs(folder)
    assert not (folder / "failure.json").exists()


def test_the_same_command_does_the_rest(sweep: Sweep, cluster: dict[str, str], place: Path) -> None:
    assert 0 < len(epochs(folders(sweep.study)["l2"])) < EPOCHS
    written = {file: file.stat().st_mtime_ns for file in sweep.study.glob("*/record.json")}
    again = Sweep(place, "sweep", {**cluster, HURRY: "1"}, [*WORDS, "sweep.retry_failed=true"])
    assert again.end() == 0, again.err
    assert "2 runs submitted as Slurm job" in again.err
    assert "2 finished, 2 already there, 0 failed." in again.out
    found = folders(sweep.study)
    assert set(found) == set(METHODS)
    assert all(epochs(folder) == list(range(1, EPOCHS + 1)) for folder in found.values())
    assert all(file.stat().st_mtime_ns == when for file, when in written.items())
    assert all(record(folder).key == folder.name for folder in found.values())
    assert len(list((place / "outputs" / "baselines").glob("*/metrics.json"))) == 1


def test_an_interrupted_run_is_an_unbroken_one(sweep: Sweep, place: Path) -> None:
    """The requeued run, repeated without interruption and without Slurm."""
    command = [*PRUNELAB, *RUN, "method=random", "study=unbroken", "logger=none"]
    subprocess.run(command, cwd=place, check=True, capture_output=True, env=sweep.environment)
    unbroken, requeued = folders(place / "outputs" / "unbroken")["random"], folders(sweep.study)["random"]
    for file in ("plan.json", "model.safetensors"):
        assert (unbroken / file).read_bytes() == (requeued / file).read_bytes(), file
