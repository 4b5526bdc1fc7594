"""Sweeps, started many times as by a user."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest
from PIL import Image

from prunelab.cli.run import main

SERVER = Path(__file__).parents[1] / "forked_sweeps.py"
STUDY = (
    "-m", "data=image_folder", "data.image_size=32", "data.mean=[0.5]", "data.std=[0.5]", "data.num_workers=0",
    "data.batch_size=8", "model=lenet5", "trainer=cpu", "budget.flops=0.5", "baseline.training.epochs=2",
    "recipe.training.epochs=2", "recipe.calibration_images=8", "study=tests", "method=l1",
)  # fmt: skip
"""A study of test scale: a run takes less than a second."""


@dataclass(frozen=True)
class Started:
    """A start of the command: its process, the leader of a process group, and its output."""

    pid: int
    output: Path

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


class Sweeps:
    """Starts the command, with STUDY or other words, in forks of a process that has imported everything."""

    def __init__(self, images: Path) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self._images = images
        self._number = 0
        self._running: set[int] = set()

    def start(
        self,
        folder: Path,
        *words: str,
        study: Sequence[str] | None = None,
        die_in_write: int | None = None,
    ) -> Started:
        """Start in ``folder``; with ``die_in_write`` all its processes die in that write to the disk.

        ``study`` stands for STUDY and its images.
        """
        self._number += 1
        output = folder / f"output-{self._number}.txt"
        start = [*(STUDY if study is None else study), *words]
        start += [f"data.root={self._images}"] if study is None else []
        answer = self._ask(start=start, folder=str(folder), output=str(output), die_in_write=die_in_write)
        self._running.add(answer["pid"])
        return Started(answer["pid"], output)

    def wait(self, started: Started) -> int:
        """The exit code, or minus the signal that ended the process."""
        status = self._ask(wait=started.pid)["status"]
        self._running.discard(started.pid)
        return status

    def run(self, folder: Path, *words: str, study: Sequence[str] | None = None) -> str:
        """Start, wait for the end without failures, and return what was printed."""
        started = self.start(folder, *words, study=study)
        assert self.wait(started) == 0, started.said()
        return started.said()

    def close(self) -> None:
        """End all processes that a failed test has left."""
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._pipe(self._server.stdin).close()
        self._server.wait()

    def _ask(self, **question: Any) -> dict[str, Any]:
        self._pipe(self._server.stdin).write(json.dumps(question) + "\n")
        self._pipe(self._server.stdin).flush()
        return json.loads(self._pipe(self._server.stdout).readline())

    @staticmethod
    def _pipe(pipe: Any) -> TextIO:
        assert pipe is not None
        return pipe


@pytest.fixture(scope="session")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweeps]:
    """A server with a folder of random images in two classes."""
    images = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for part, number in (("train", 16), ("val", 8)):
        for label in ("cat", "dog"):
            (images / part / label).mkdir(parents=True)
            for index in range(number):
                values = pixels.integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(values).save(images / part / label / f"{index}.png")
    server = Sweeps(images)
    yield server
    server.close()


@dataclass(frozen=True)
class Ending:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Ending]


@pytest.fixture
def prunelab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process (importing torch takes seconds), in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRUNELAB_TRACEBACK", "0")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")

    def run(*words: str) -> Ending:
        monkeypatch.setattr(sys, "argv", ["prunelab", *words])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        printed = capfd.readouterr()
        assert isinstance(ending.value.code, int)
        return Ending(ending.value.code, printed.out, printed.err)

    return run
