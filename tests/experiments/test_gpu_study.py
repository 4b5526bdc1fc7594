"""experiments/cifar10_resnet56/gpu.sh: its command lines compose, name rows that exist, and end in time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from PIL import Image

from prunelab.cli.config import configure
from prunelab.data import Cifar10
from prunelab.methods import LearningMethod
from prunelab.models import build
from prunelab.records import Record
from prunelab.steps import Setup

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "experiments/cifar10_resnet56/gpu.sh"
ROWS = "experiment/cifar10_resnet56="
TRAIN_IMAGES = 49_000
COMPILATION_S = 50
"""Measured on an H100, see experiments/cifar10_resnet56/README.md."""

STAND_IN = """#!{python}
import json, os, sys, time
with open(os.environ["CALLS"], "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
time.sleep(float(os.environ.get("SECONDS_EACH", 0)))
sys.exit(int(os.environ.get("STATUS", 0)))
"""


@pytest.fixture
def study(tmp_path: Path) -> object:
    """Runs the script with a ``prunelab`` that records its arguments; returns the exit code and the arguments."""
    (tmp_path / "prunelab").write_text(STAND_IN.format(python=sys.executable))
    (tmp_path / "prunelab").chmod(0o755)
    (tmp_path / "weights.safetensors").write_bytes(b"")

    def run(*arguments: str, **variables: str) -> tuple[int, list[list[str]]]:
        calls = tmp_path / "calls"
        environment = {
            **os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "CALLS": str(calls), **variables,
        }  # fmt: skip
        done = subprocess.run(
            [str(SCRIPT), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            timeout=120,
            check=False,
        )
        lines = calls.read_text().splitlines() if calls.exists() else []
        return done.returncode, [json.loads(line) for line in lines]

    return run


@pytest.mark.slow
def test_every_command_line_makes_a_run(study: object, tmp_path: Path) -> None:
    status, calls = study("images", str(tmp_path / "weights.safetensors"), "60", "trainer.accelerator=cpu")  # type: ignore[operator]
    assert status == 0
    rows = []
    for words in calls:
        (named,) = (word.removeprefix(ROWS) for word in words if word.startswith(ROWS))
        plain = [
            word for word in words if word != "-m" and not word.startswith((ROWS, "experiment=", "hydra"))
        ]
        for row in named.split(","):
            setup = Setup.of(configure([f"experiment=cifar10_resnet56/{row}", *plain]))
            assert setup.study == "cifar10_resnet56_gpu"
            assert setup.task.machine.images_on_device
            assert setup.task.data.name == "CIFAR-10 (JPEG copy)"
            assert setup.task.data.transform == Cifar10().transform  # the weights were trained with it
            assert minutes_of(setup) < 8, row
            rows.append(row)
    assert len(rows) == len(set(rows)) >= 15


def minutes_of(setup: Setup) -> float:
    """The time of a row on an H100: its images through the full network at the measured speeds, and compilations."""
    record = json.loads((ROOT / "experiments/benchmarks/records/gpu_nvidia_h100_80gb_hbm3.json").read_text())
    speeds = {name: row["images_per_s"] for name, row in record["training"].items()}
    eager = speeds["cifar_resnet56, trainer=gpu"]
    compiled = speeds[
        "cifar_resnet56, trainer=gpu trainer.compile=reduce-overhead trainer.deterministic=warn"
    ]
    seconds, method = 0.0, setup.method
    trainings = [each.training for each in setup.recipe.rounds(setup.budget.keep)]
    if isinstance(method, LearningMethod):
        trainings.append(method.training)
        if method.eager:  # a second pass of the same number of images
            seconds += method.training.epochs * TRAIN_IMAGES * 2 / eager
            trainings.pop()
    for training in filter(None, trainings):
        compiles = bool(setup.task.machine.compile)
        seconds += (
            training.epochs * TRAIN_IMAGES / (compiled if compiles else eager) + compiles * COMPILATION_S
        )
    return seconds / 60


def test_only_chosen_rows_run(study: object) -> None:
    status, calls = study("images", "weights.safetensors", ROWS="l1_10,fpgm_53")  # type: ignore[operator]
    assert status == 0
    assert [[word for word in words if word.startswith(ROWS)] for words in calls] == [
        [f"{ROWS}l1_10"],
        [f"{ROWS}fpgm_53"],
    ]


@pytest.mark.devices
def test_a_row_runs_from_images_to_its_record(tmp_path: Path) -> None:
    """On the processor, with one batch of everything; images are in memory, on the device of the training."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 20), ("val", 4)):
        for label in range(10):
            folder = tmp_path / "images" / part / str(label)
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.jpg")
    network = build("cifar_resnet56", num_classes=10, in_chans=3, image_size=(32, 32))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "weights.safetensors")
    command = tmp_path / "prunelab"
    command.write_text(f"#!{sys.executable}\nfrom prunelab.cli.run import main\nmain()\n")
    command.chmod(0o755)
    tiny = (
        "trainer.accelerator=cpu",
        "trainer.compile=false",
        "fast_dev_run=1",
        "data.batch_size=8",
        "data.val_fraction=0.2",
    )
    arguments = [str(SCRIPT), "images", "weights.safetensors", "20", *tiny]
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "ROWS": "l1_28", "OMP_NUM_THREADS": "1"}
    for again in (False, True):  # the second time the record exists
        done = subprocess.run(
            arguments, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        (file,) = (tmp_path / "outputs").glob("**/record.json")
        if not again:
            written = file.stat().st_mtime_ns
    assert file.stat().st_mtime_ns == written
    record = Record.from_json(file.read_text())
    assert record.pruned.flops < 0.73 * record.baseline.flops
    assert (tmp_path / "outputs/cifar10.images").is_file()


def test_a_failed_row_is_reported_at_the_end(study: object) -> None:
    status, calls = study("images", "weights.safetensors", STATUS="1")  # type: ignore[operator]
    assert status == 1
    assert len(calls) == 4


def test_nothing_starts_when_the_time_is_over(study: object) -> None:
    begin = time.monotonic()
    status, calls = study("images", "weights.safetensors", "0", SECONDS_EACH="60")  # type: ignore[operator]
    assert (status, calls) == (0, [])
    assert time.monotonic() - begin < 30


def test_without_arguments_it_prints_its_usage(study: object) -> None:
    assert study() == (2, [])  # type: ignore[operator]
