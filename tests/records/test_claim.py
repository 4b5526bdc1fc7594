"""One process at a time, on one machine or several; a claim ends with the process that holds it, or with its lease."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prunelab.records import claim, claimed
from prunelab.records.claim import ClaimLost

LEASE_S = 1.5
HOLD = """
import fcntl, sys, time
from pathlib import Path
if sys.argv[2] == "locks stay on their machine":
    fcntl.flock = lambda *_: None
from prunelab.records import claim, claimed
claim.LEASE_S = float(sys.argv[3])
with claimed(Path(sys.argv[1]), "it") as held:
    print("held", flush=True)
    time.sleep(float(sys.argv[4]))
    held.write(Path(sys.argv[1]) / "result", "of the first")
"""
OTHER_MACHINE = ["unshare", "--uts", "sh", "-c", 'hostname another-machine && exec "$@"', "sh"]
"""A process for which the kernel reports another host name: it cannot check whether a process of this machine is
alive."""


@contextmanager
def holder(
    folder: Path,
    locks: str = "",
    machine: tuple[str, ...] = (),
    seconds: float = 60,
    patience: float = 60,
) -> Iterator[subprocess.Popen[str]]:
    """A process that has the claim after at most ``patience`` seconds, and writes a result after ``seconds``."""
    command = [*machine, sys.executable, "-c", HOLD, str(folder), locks, str(LEASE_S), str(seconds)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        impatient = threading.Timer(patience, process.kill)
        impatient.start()
        assert process.stdout.readline() == "held\n"
        impatient.cancel()
        yield process
    finally:
        process.kill()
        process.communicate()


def waited(folder: Path) -> float:
    """Seconds until this process has the claim."""
    start = time.monotonic()
    with claimed(folder, "the run abc"):
        return time.monotonic() - start


@pytest.fixture
def other_machine(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.setattr(claim, "LEASE_S", LEASE_S)
    if shutil.which("unshare") is None or subprocess.run([*OTHER_MACHINE, "true"], check=False).returncode:
        pytest.skip("this machine does not let us pretend to be another one")
    return tuple(OTHER_MACHINE)


@pytest.mark.slow
def test_a_second_process_waits_until_the_first_is_killed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LEASE_S", LEASE_S)
    with holder(tmp_path) as process, caplog.at_level(logging.INFO, "prunelab"):
        threading.Timer(1.0, lambda: (process.kill(), process.wait())).start()
        assert 0.9 < waited(tmp_path) < 10
    assert "Another process is working on the run abc: waiting" in caplog.text
    assert "machine" not in caplog.text  # a dead process of this machine is known to be dead


def test_a_claim_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert waited(tmp_path) < 10
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.slow
def test_a_file_system_that_keeps_locks_to_each_machine_does_not_let_two_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other_machine: tuple[str, ...]
) -> None:
    with (
        holder(tmp_path, "locks stay on their machine", other_machine) as process,
        caplog.at_level(logging.INFO, "prunelab"),
    ):
        threading.Timer(2 * LEASE_S, process.kill).start()
        assert waited(tmp_path) > 2 * LEASE_S  # its renewals are noticed, and then their absence
    assert (
        "A process on another machine is working on the run abc, or worked on it until a minute ago"
        in caplog.text
    )


def test_a_process_of_another_machine_that_ends_normally_delays_no_other(
    tmp_path: Path, other_machine: tuple[str, ...]
) -> None:
    with holder(tmp_path, "", other_machine, seconds=0) as process:
        process.wait()
        assert waited(tmp_path) < LEASE_S


@pytest.mark.slow
def test_a_process_that_was_suspended_longer_than_its_lease_writes_nothing(
    tmp_path: Path, other_machine: tuple[str, ...]
) -> None:
    with holder(tmp_path, "locks stay on their machine", other_machine, seconds=4 * LEASE_S) as process:
        os.kill(process.pid, signal.SIGSTOP)
        with claimed(tmp_path, "it") as ours:
            os.kill(process.pid, signal.SIGCONT)
            ours.write(tmp_path / "result", "of the second")
            assert process.wait(timeout=60) == 1
            ours.check()
    assert (tmp_path / "result").read_text() == "of the second"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_a_suspended_process_continues_if_there_was_no_other(
    tmp_path: Path, other_machine: tuple[str, ...]
) -> None:
    with holder(tmp_path, "", other_machine, seconds=2 * LEASE_S) as process:
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3 * LEASE_S)
        os.kill(process.pid, signal.SIGCONT)
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "result").read_text() == "of the first"


@pytest.mark.parametrize("age", [pytest.param(0.0, marks=pytest.mark.slow), 3600.0])
def test_an_empty_lease_file_is_removed_when_a_lease_of_its_age_has_expired(
    tmp_path: Path, age: float
) -> None:
    """It remains if a process dies between creating and writing the file."""
    (tmp_path / ".lease").touch()
    os.utime(tmp_path / ".lease", (time.time() - age,) * 2)
    with holder(tmp_path, seconds=0, patience=10 * LEASE_S) as process:
        assert process.wait(timeout=60) == 0
    assert (tmp_path / "result").read_text() == "of the first"
    assert not list(tmp_path.glob(".lease*"))


def test_a_finished_result_is_never_replaced(tmp_path: Path) -> None:
    with claimed(tmp_path, "it") as held:
        held.write_once(tmp_path / "record", "first")
        with pytest.raises(FileExistsError):
            held.write_once(tmp_path / "record", "second")
    assert (tmp_path / "record").read_text() == "first"
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "record"]


def test_a_claim_whose_lease_file_was_removed_is_lost(tmp_path: Path) -> None:
    with claimed(tmp_path, "the run abc") as held:
        (tmp_path / ".lease").unlink()
        with pytest.raises(ClaimLost, match="taken over the run abc"):
            held.write(tmp_path / "result", "late")
    assert not (tmp_path / "result").exists()
