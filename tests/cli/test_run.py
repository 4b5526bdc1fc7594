"""The prunelab command: its output, its files, and its end."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Sweeps

pytestmark = pytest.mark.slow

SMALL = ("budget.flops=0.5", "baseline.training.epochs=1", "recipe.training.epochs=1", "trainer=cpu")


Command = Callable[..., Any]


def test_a_run_and_its_second_launch(prunelab: Command, tmp_path: Path) -> None:
    first = prunelab(*SMALL, "method=l2", "study=mine")
    assert first.code == 0
    (folder,) = (path for path in (tmp_path / "outputs" / "mine").iterdir() if path.name != ".hydra")
    assert re.search(r"l2 on resnet20, digits, seed 0: finished\.\n  top-1 .* before recovery", first.out)
    assert f"outputs/mine/{folder.name}" in first.out
    assert "l2 on resnet20, digits, budget.flops=0.5, seed 0  ->  outputs/mine/" in first.err
    assert "Tip" not in first.err and "GPU available" not in first.err and "Warning" not in first.err
    assert sorted(path.name for path in (tmp_path / "outputs").iterdir()) == ["baselines", "mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]

    again = prunelab(*SMALL, "method=l2", "study=mine")
    assert (again.code, again.err) == (0, "")
    assert "already there since" in again.out


def test_in_a_sweep_a_failed_job_does_not_stop_the_others(prunelab: Command) -> None:
    words = ("-m", *SMALL[1:], "fast_dev_run=1", "study=sweep", "budget.flops=0.001,0.6", "method=l1,random")
    sweep = prunelab(*words)
    assert sweep.code == 1
    assert "2 finished, 0 already there, 2 failed." in sweep.out
    assert "Wrote outputs/sweep/table.md" in sweep.out
    reasons = [line for line in sweep.err.splitlines() if "cannot be reached" in line]
    assert len(reasons) == 2
    assert "budget.flops=0.001 method=l1" in reasons[0]
    assert "Traceback" not in sweep.err

    assert "Finished:\n  budget.flops=0.6 method=l1\n  budget.flops=0.6 method=random\n" in sweep.out

    again = prunelab(*words)
    assert again.code == 1
    assert "Already there:\n  budget.flops=0.6 method=l1\n  budget.flops=0.6 method=random\n" in again.out
    assert "0 finished, 2 already there, 2 failed." in again.out
    assert again.err.count("failed earlier: budget.flops=0.001 cannot be reached") == 2
    assert again.err.count("(sweep.retry_failed=true tries it again.)") == 2


def test_failed_runs_are_repeated_on_request(prunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("-m", *SMALL, "fast_dev_run=1", "study=sweep", "method=l1,l2")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("prunelab.experiment.write_network", full)
        assert "0 finished, 0 already there, 2 failed." in prunelab(*words).out
    left_alone = prunelab(*words)
    assert (left_alone.code, left_alone.err.count("failed earlier: The disk is full.")) == (1, 2)
    assert prunelab(*SMALL, "fast_dev_run=1", "study=sweep", "method=l1").code == 0  # a single run
    again = prunelab(*words, "sweep.retry_failed=true")
    assert (again.code, again.err.count("failed")) == (0, 0)
    assert "1 finished, 1 already there, 0 failed." in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "The budget is empty"),
        (["budget.flops=0.5", "budget.params=0.5"], "budget.flops=0.5 and budget.params=0.5"),
        (["budget.flops=7"], "budget.flops=7 is not a fraction"),
        (["budget.flops=0.001"], "the smallest for resnet20 with levels [filter, stage] is"),
        (["method=l9"], "There is no method called 'l9'"),
        (["budget.flops=0.5", "model=timm", "model.name=resnet51"], "no model 'resnet51'"),
        (["budget.flops=0.5", "model=resnet50", "data.image_size=8", "trainer=gpu"], "trainer"),
        (["budget.flops=0.5", "baseline=file", "baseline.path=none.pt"], "none.pt cannot be read"),
        (["budget.flops=0.5", "model=lenet5"], "lenet5 does not accept images of 8x8"),
        (["budget.flops=0.5", "data=image_folder", "data.root=nowhere"], "nowhere"),
        (["budget.flops=0.5", "outputs=/proc/nowhere"], "output folder /proc/nowhere"),
        (["-m", "budget.flops=0.5", "outputs=/proc/nowhere"], "output folder /proc/nowhere"),
        (["-m", "method=l1,l9", "budget.flops=0.5"], "There is no method called 'l9'"),
        (["budget.flops=0.5", "study=a/b"], "study=a/b is not a folder name"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_1(prunelab: Command, words: list[str], message: str) -> None:
    ending = prunelab(*words)
    assert ending.code == 1
    assert message in ending.err
    assert ending.err.startswith("prunelab: ") or "->" in ending.err.splitlines()[0]
    assert "Traceback" not in ending.err
    assert not list(Path().glob("outputs/*/*/record.json"))


def test_the_traceback_is_shown_on_request(prunelab: Command) -> None:
    assert "Traceback" in prunelab("--traceback", "budget.flops=7").err
    assert "Traceback" in prunelab("--traceback", "budget.flop=7").err


def test_weights_that_do_not_fit_are_counted(prunelab: Command, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"conv1.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "weights.safetensors")
    ending = prunelab("budget.flops=0.5", "baseline=file", "baseline.path=weights.safetensors")
    assert ending.code == 1
    assert re.search(r"do not fit this CifarResNet: \d+ missing .* 1 of wrong shape", ending.err)


def test_a_sweep_without_runs_is_an_error(prunelab: Command) -> None:
    ending = prunelab("-m", "method=glob(zz*)", *SMALL)
    assert (ending.code, ending.out) == (1, "")
    assert ending.err == "prunelab: Nothing was run: a glob() matches no choice. See prunelab --help.\n"


def test_help_and_configuration(prunelab: Command) -> None:
    said = prunelab("--help").out
    for expected in (
        "prunelab -m method=l1,fpgm,taylor",
        "\nmethod: abcpruner, ",
        "budget.flops=0.5",
        "--traceback",
        str(Path(__file__).parents[2] / "conf"),
    ):
        assert expected in said
    assert max(map(len, said.splitlines())) <= 140
    shown = prunelab("--cfg", "job", "method=taylor").out
    assert "_target_: prunelab.methods.Taylor" in shown
    assert prunelab("--version").out == f"prunelab {version('prunelab')}\n"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_prints_one_line(
    sweeps: Sweeps, tmp_path: Path, sent: signal.Signals, code: int
) -> None:
    """Also by SIGTERM, after which Lightning would end the process with 0."""
    words = ("budget.flops=0.5", "method=l1", "trainer=cpu", "baseline.training.epochs=5000")
    started = sweeps.start(tmp_path, study=words)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("outputs/baselines/*/curves.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(started.pid, sent)
    assert sweeps.wait(started) == code, started.said()
    assert started.said().endswith("\nprunelab: stopped. The same command continues from here.\n")
    assert "Traceback" not in started.said()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert not left & {"metrics.json", "record.json", "failure.json"}
    assert not [name for name in left if name.endswith(".partial")]


def test_a_run_without_a_method_names_the_default(prunelab: Command) -> None:
    words = (
        "budget.flops=0.5",
        "baseline.training.epochs=1",
        "trainer=cpu",
        "debug=fast_dev_run",
        "recipe=none",
    )
    assert "No method was named: obs is the default" in prunelab(*words).out
    assert "No method was named" not in prunelab(*words, "method=l1").out
