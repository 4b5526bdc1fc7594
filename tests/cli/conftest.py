"""Sweeps, started many times as by a user."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.forks import Forks, Started

from prunelab.cli.run import main

STUDY = (
    "-m", "data=image_folder", "data.image_size=32", "data.mean=[0.5]", "data.std=[0.5]", "data.num_workers=0",
    "data.batch_size=8", "model=lenet5", "trainer=cpu", "budget.flops=0.5", "baseline.training.epochs=2",
    "recipe.training.epochs=2", "recipe.calibration_images=8", "study=tests", "method=l1",
)  # fmt: skip
"""A study of test scale: a run takes less than a second."""


class Sweeps:
    """Starts the command, with STUDY or other words."""

    def __init__(self, forks: Forks, images: Path) -> None:
        self._forks, self._images = forks, images

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
        first = [*STUDY, f"data.root={self._images}"] if study is None else study
        return self._forks.start(folder, *first, *words, die_in_write=die_in_write)

    def wait(self, started: Started) -> int:
        """The exit code, or minus the signal that ended the process."""
        return self._forks.wait(started)

    def run(self, folder: Path, *words: str, study: Sequence[str] | None = None) -> str:
        """Start, wait for the end without failures, and return what was printed."""
        started = self.start(folder, *words, study=study)
        assert self.wait(started) == 0, started.said()
        return started.said()


@pytest.fixture(scope="session")
def sweeps(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Sweeps:
    """With a folder of random images in two classes."""
    images = tmp_path_factory.mktemp("images")
    pixels = np.random.default_rng(0)
    for part, number in (("train", 16), ("val", 8)):
        for label in ("cat", "dog"):
            (images / part / label).mkdir(parents=True)
            for index in range(number):
                values = pixels.integers(0, 256, (32, 32), dtype=np.uint8)
                Image.fromarray(values).save(images / part / label / f"{index}.png")
    return Sweeps(forks, images)


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
