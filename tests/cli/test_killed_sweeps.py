"""A sweep that is killed repeatedly ends like an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Sweeps
from tests.forks import Started

from prunelab.records.own_digest import check_digest

pytestmark = pytest.mark.slow

KILLS = 15
RUNS = (
    "method=l1,taylor",
    "seed=0,1",
    "recipe=iterative",
    "recipe.number=2",
    "recipe.round_training.epochs=1",
)
NUMBER_OF_RUNS = 4
LAUNCHERS = ((), ("hydra/launcher=local", "hydra.launcher.jobs=2"))
WRITES = 14
"""Largest number of files and folders that reach the disk before the deadly one; a run syncs about 40."""

TIMES = ("timings", "started", "finished", "latency_ms", "git")


def without_times(values: Any) -> Any:
    """A record without the fields that differ between runs: times, and the state of the code."""
    if isinstance(values, dict):
        return {name: without_times(value) for name, value in values.items() if name not in TIMES}
    return [without_times(value) for value in values] if isinstance(values, list) else values


@dataclass
class Study:
    """The content of the folder of one sweep: finished runs and baselines must never change."""

    folder: Path
    seen: dict[Path, bytes] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.folder / "outputs"

    def results(self) -> dict[Path, Any]:
        """By path in the folder: records without times and their digests, and the bytes of all other files of a run."""
        found: dict[Path, Any] = {}
        for file in sorted((self.root / "tests").glob("*/record.json")):
            values = json.loads(file.read_text())
            check_digest(values)
            found[file.relative_to(self.root)] = without_times(values) | {
                "digest": None
            }  # of the times as well
            for name in ("model.safetensors", "plan.json", "curves.csv"):
                found[file.relative_to(self.root).with_name(name)] = file.with_name(name).read_bytes()
        for file in self.root.glob("baselines/*/metrics.json"):
            found[file.relative_to(self.root)] = json.loads(file.read_text()) | {
                "seconds": None,
                "metrics_sha256": None,
            }
            for name in ("model.safetensors", "curves.csv"):
                found[file.relative_to(self.root).with_name(name)] = file.with_name(name).read_bytes()
        return found

    def nothing_was_done_twice(self) -> None:
        """Finished runs and baselines are unchanged, to the byte, including times."""
        for file, content in self.seen.items():
            assert file.read_bytes() == content, file
        for pattern in ("tests/*/record.json", "baselines/*/metrics.json"):
            self.seen |= {file: file.read_bytes() for file in self.root.glob(pattern)}
        assert not list(self.root.rglob("failure.json"))

    def left_over(self) -> list[Path]:
        """Files that only an unfinished run or baseline needs."""
        return [
            path
            for path in self.root.glob("*/*/**/*")
            if path.name.endswith((".partial", ".damaged", ".ckpt")) or path.name in ("rounds", "training")
        ]


def kill(started: Started, moment: random.Random) -> None:
    """Kill the sweep and all workers at once, or first the sweep and then the remaining workers."""
    if moment.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(started.pid, signal.SIGKILL)
        time.sleep(moment.uniform(0, 0.3))
    with suppress(ProcessLookupError):
        os.killpg(started.pid, signal.SIGKILL)


def test_a_sweep_killed_many_times_loses_nothing_and_counts_nothing_twice(
    sweeps: Sweeps, tmp_path: Path
) -> None:
    number = random.SystemRandom().randrange(10**6)
    print(f"moments drawn with seed {number}")  # shown if the test fails
    moment = random.Random(number)

    undisturbed = Study(tmp_path / "undisturbed")
    undisturbed.folder.mkdir()
    begin = time.monotonic()
    assert f"{NUMBER_OF_RUNS} finished, 0 already there, 0 failed." in sweeps.run(undisturbed.folder, *RUNS)
    duration = time.monotonic() - begin
    truth = undisturbed.results()
    assert len(truth) == 4 * NUMBER_OF_RUNS + 3 * 2

    kills = generations = 0
    while kills < KILLS:
        generations += 1
        study = Study(tmp_path / str(generations))
        study.folder.mkdir()
        while True:
            there = len(list(study.root.glob("tests/*/record.json")))
            last = kills >= KILLS
            in_write = None if last or moment.random() < 0.5 else moment.randint(1, WRITES)
            launcher = moment.choice(LAUNCHERS)
            started = sweeps.start(study.folder, *RUNS, *launcher, die_in_write=in_write)
            if in_write is None and not last:
                time.sleep(moment.uniform(0.05, 0.25) * duration)
                kill(started, moment)
            code = sweeps.wait(started)
            study.nothing_was_done_twice()
            results = study.results()
            assert {file: each for file, each in results.items() if each != truth[file]} == {}
            if code == 0:
                break
            assert code == -signal.SIGKILL, started.said()
            kills += 1
        said = re.search(r"(\d+) finished, (\d+) already there, (\d+) failed\.", started.said())
        assert said is not None
        assert [int(each) for each in said.groups()] == [NUMBER_OF_RUNS - there, there, 0]
        assert study.results() == truth
        assert study.left_over() == []
    print(f"{kills} kills, {generations} sweeps")
