"""The Slurm launcher without Slurm: its errors, its requests, and its use of the answers."""

from __future__ import annotations

import os
import pickle
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from submitit.helpers import DelayedSubmission

from prunelab.cli.run import main
from prunelab.cli.slurm import SlurmSettings, wait, work
from prunelab.cli.slurm.jobs import State, states
from prunelab.cli.slurm.launch import Run
from prunelab.cli.slurm.result_file import read_result
from prunelab.cli.slurm.wait import Submitted, endings
from prunelab.cli.summary import Job
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.records.latency import Spread

Configure = Callable[..., dict[str, Any]]
SWEEP = ["prunelab", "-m", "hydra/launcher=slurm", "trainer=cpu", "budget.flops=0.5"]


def pretend(folder: Path, program: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program of this name first on the path."""
    file = folder / program
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def said(words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    """The message of the command, which must fail."""
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    with pytest.raises(SystemExit) as ending:
        main()
    assert ending.value.code == 1
    return capfd.readouterr().err


def test_without_submitit_or_slurm_the_message_names_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        assert "no Slurm (no sbatch)" in said(SWEEP, monkeypatch, capfd)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "submitit", None)
        assert "pip install 'prunelab[cluster]'" in said(SWEEP, monkeypatch, capfd)


def test_the_message_of_slurm_about_rejected_jobs_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    pretend(tmp_path, "srun", "", monkeypatch)
    pretend(
        tmp_path, "sbatch", "echo 'sbatch: error: invalid partition specified: gpuu' >&2; exit 1", monkeypatch
    )
    error = said([*SWEEP, "hydra.launcher.partition=gpuu"], monkeypatch, capfd)
    expected = "prunelab: Slurm rejects the jobs (sbatch: error: invalid partition specified: gpuu)."
    assert expected in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gpus": -1}, r"hydra\.launcher\.gpus must be a whole number, at least 0, not -1"),
        ({"minutes": 1.5}, r"hydra\.launcher\.minutes must be a whole number"),
        ({"minutes": 2, "warning_s": 120}, "must be shorter than the time limit"),
        ({"gpu": 1}, "There is no key hydra.launcher.gpu. Did you mean 'gpus'"),
    ],
)
def test_impossible_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SlurmSettings.of(settings)


def test_the_file_and_the_class_agree() -> None:
    import yaml

    from prunelab.cli.config import conf_location

    keys = yaml.safe_load((Path(conf_location()) / "hydra/launcher/slurm.yaml").read_text())
    assert keys.pop("_target_") == "hydra_plugins.prunelab_slurm.SlurmLauncher"
    given = SlurmSettings.of(keys)
    assert (given.gpus, given.minutes) == (1, 240)


@pytest.mark.parametrize(
    ("devices", "nodes", "gpus", "expected"),
    [
        (1, 1, 1, (1, 1)),
        (4, 2, 4, (2, 4)),
        ("auto", 1, 8, (1, 8)),
        ("auto", 1, 0, (1, 1)),
        ([0, 2], 1, 4, (1, 2)),
    ],
)
def test_slurm_starts_the_processes_that_trainer_asks_for(
    devices: object, nodes: int, gpus: int, expected: tuple[int, int]
) -> None:
    run = Run({"trainer": {"devices": devices, "num_nodes": nodes}}, "", "", Path())
    assert run.processes(gpus) == expected


def test_states_are_read_job_by_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "7_0|RUNNING|None\\n7_1|PENDING|Resources\\n9|TIMEOUT|TimeLimit\\n"
    pretend(tmp_path, "squeue", f'echo "$@" > {tmp_path}/asked; printf "{answer}"', monkeypatch)
    assert states(["7_0", "7_1", "9", "11"]) == {
        "7_0": State("RUNNING", "None"),
        "7_1": State("PENDING", "Resources"),
        "9": State("TIMEOUT", "TimeLimit"),
    }
    assert "--jobs=11,7,9" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize(
    ("message", "expected"), [("Invalid job id specified", {}), ("Unable to contact", None)]
)
def test_an_unknown_job_has_ended_but_no_answer_means_nothing(
    message: str, expected: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(tmp_path, "squeue", f"echo 'slurm_load_jobs error: {message}' >&2; exit 1", monkeypatch)
    assert states(["7"]) == expected


def test_every_job_ends_with_a_result_or_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = (
        "7_1|CANCELLED|None\\n7_2|TIMEOUT|TimeLimit\\n7_3|OUT_OF_MEMORY|None\\n7_4|FAILED|NonZeroExitCode\\n"
    )
    pretend(tmp_path, "squeue", f'printf "{answer}"', monkeypatch)
    monkeypatch.setattr(wait, "LAG_S", 0)
    jobs = {number: Submitted(f"7_{number}", f"seed={number}", tmp_path) for number in range(6)}
    jobs[0].result_file.write_bytes(pickle.dumps(("success", Job("other", error="told to fail"))))
    jobs[4].result_file.write_bytes(pickle.dumps(("error", "Traceback\nImportError: no torch\n")))
    jobs[4].output_file.write_text("")
    found = endings(jobs, poll_s=0)
    assert [found[number].label for number in range(6)] == [f"seed={number}" for number in range(6)]
    assert [found[number].error for number in range(6)] == [
        "told to fail",
        "Slurm job 7_1: cancelled with scancel.",
        "Slurm job 7_2: stopped by Slurm at its time limit; it did not react to the signal before the limit.",
        "Slurm job 7_3: stopped by Slurm because it used more memory than hydra.launcher.memory_gb.",
        f"Slurm job 7_4: failed outside of the run: ImportError: no torch. See {tmp_path}/7_4_0_log.out",
        "Slurm job 7_5: ended without a result.",
    ]
    assert not list(tmp_path.glob("*_result.pkl"))


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.file,)


@pytest.mark.parametrize("kind", ["code", "a result with code", "another value", "cut", "empty"])
def test_the_result_of_a_job_runs_no_code(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder of a study may be untrusted."""
    ran = tmp_path / "ran"
    job = Submitted("7", "seed=0", tmp_path)
    contents = {
        "code": pickle.dumps(Bomb(ran)),
        "a result with code": pickle.dumps(("success", Job("seed=0", error=Bomb(ran)))),
        "another value": pickle.dumps(("success", "done")),
        "cut": pickle.dumps(("success", Job("seed=0")))[:-9],
        "empty": b"",
    }
    job.result_file.write_bytes(contents[kind])
    monkeypatch.setattr(wait, "states", lambda _: {"7": State("COMPLETED")})
    ended = endings({0: job}, poll_s=0)[0]
    assert (ended.label, ended.record) == ("seed=0", None)
    assert "Slurm job 7: its result 7_0_result.pkl cannot be used" in (ended.error or "")
    assert not ran.exists()


def test_dataclasses_at_any_depth_of_a_result_are_read(tmp_path: Path) -> None:
    times = Spread(1.0, 2.0, 1.5, 2.5)
    (tmp_path / "7_0_result.pkl").write_bytes(pickle.dumps(("success", Job("l1", record=times))))
    assert read_result(tmp_path / "7_0_result.pkl") == ("success", Job("l1", record=times))


@pytest.mark.slow
def test_a_record_is_returned_by_a_job(tmp_path: Path, smallest: Configure) -> None:
    outcome = run(smallest())
    job = Submitted("7", "seed=0", tmp_path)
    done = Job("other", outcome.record, outcome.folder.path, is_new=True)
    job.result_file.write_bytes(pickle.dumps(("success", done)))
    assert job.result() == replace(done, label="seed=0")


def test_a_job_at_its_limit_is_requeued_a_limited_number_of_times(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=lambda: work._started + 3600)
    monkeypatch.setattr(work, "time", clock)
    first = work.SlurmRun({}, "seed=0", seconds=3600, restarts=1)
    back = first.checkpoint()
    assert isinstance(back, DelayedSubmission)
    second = back.function
    assert (second.restarts, second.starts) == (0, 2)
    with pytest.raises(work.TimeIsUp):
        second.checkpoint()
    monkeypatch.setattr(work, "perform", lambda *_: second.checkpoint())
    assert "which it reached 2 times" in (second().error or "")
    clock.monotonic = lambda: work._started + 600  # preempted, long before the limit
    assert second.checkpoint().function == second


def test_waiting_does_not_end_while_a_job_may_be_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMPLETING after the signal, then PENDING, then the result."""
    job = Submitted("7", "seed=0", tmp_path)
    answers = ["COMPLETING", "FAILED", "PENDING", "RUNNING"]

    def answer(_: object) -> dict[str, State]:
        if not answers:
            job.result_file.write_bytes(pickle.dumps(("success", Job("seed=0", error="the end"))))
            return {"7": State("COMPLETED")}
        return {"7": State(answers.pop(0))}

    monkeypatch.setattr(wait, "states", answer)
    start = time.monotonic()
    assert endings({0: job}, poll_s=0)[0].error == "the end"
    assert time.monotonic() - start < wait.LAG_S
