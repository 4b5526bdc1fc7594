from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prunelab.evaluation import load, other_load

SPIN = "import time\nprint(flush=True)\nend = time.time() + 30\nwhile time.time() < end: pass"
BUSY_S = 1.0

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the load is read from /proc/stat")


@contextmanager
def spinning_process() -> Iterator[None]:
    """Another process that keeps one core busy."""
    process = subprocess.Popen([sys.executable, "-c", SPIN], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


def busy(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@linux
@pytest.mark.slow
def test_the_load_of_another_process_is_measured() -> None:
    """The difference between the two measurements, because other processes of the machine are part of both."""
    lowest = min(_cores(BUSY_S) for _ in range(3))
    with spinning_process():
        highest = max(_cores(BUSY_S) for _ in range(3))

    assert highest >= 0.3
    assert highest > lowest or lowest > 1  # other processes use all cores


def _cores(seconds: float) -> float:
    with other_load() as measured:
        busy(seconds)
    assert measured.cores is not None
    return measured.cores


@linux
def test_this_process_does_not_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With an artificial /proc/stat, in which the busy time of all cores is that of this process."""
    monkeypatch.setattr(load.os, "sched_getaffinity", lambda process: {0})
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "STAT", stat)
    stat.write_text("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 0 5 5 0 0 0 0 0\ncpu1 700 0 0 0 0 0 0 0 0 0\n")

    wall, own = time.perf_counter(), time.process_time()
    with other_load() as measured:
        busy(0.5)
        stat.write_text("cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 200 0 0 9 9 0 0 0 0 0\ncpu1 999 0 0 0 0 0 0 0 0 0\n")

    wall, own = time.perf_counter() - wall, time.process_time() - own
    assert measured.cores == pytest.approx((1.0 - own) / wall, abs=0.15)  # core 0 was busy for one second


def test_the_load_over_a_moment_is_not_known() -> None:
    with other_load() as measured:
        pass
    assert measured.cores is None


@pytest.mark.parametrize(("runs", "cores"), [("4", 3.0), (None, None)])
def test_without_proc_the_load_is_the_number_of_other_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runs: str | None, cores: float | None
) -> None:
    monkeypatch.setattr(load, "STAT", tmp_path / "nowhere")
    monkeypatch.delenv(load.CONCURRENT_RUNS_VARIABLE, raising=False)
    if runs is not None:
        monkeypatch.setenv(load.CONCURRENT_RUNS_VARIABLE, runs)
    with other_load() as measured:
        busy(0.3)
    assert measured.cores == cores
