"""W&B with its real client, offline: no account, no network, no question."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from prunelab.errors import UserError
from prunelab.logging import EpochRow, WandbLogger
from prunelab.records import Accuracy, BudgetSummary, GitState, Metrics, PlanSummary, Record, Timings

Configure = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key in the environment or in the home folder; a question would fail for want of an answer."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", None)


def record_of(config: dict[str, Any]) -> Record:
    metrics = Metrics(0.9, 1.0, 100, 50, 10, {1: 0.5})
    return Record(
        key="abc",
        study="tests",
        method="l1",
        model="resnet20",
        data="digits",
        seed=0,
        levels=("filter",),
        budget=BudgetSummary("flops", 0.5, 0.4993, "global", 1),
        recipe="one_shot",
        baseline=metrics,
        after_pruning=Accuracy(0.25, 0.5),
        pruned=metrics,
        plan=PlanSummary({"layer1": (16, 7)}, (), "digest", 1e-7),
        config=config,
        timings=Timings(0, 1, 2, 3, 6),
        versions={},
        hardware={},
        git=GitState(None, False),
        started="2026-01-01T00:00:00+00:00",
        finished="2026-01-01T00:00:06+00:00",
    )


def everything_written(folder: Path) -> str:
    """The run's file for a later upload, and its tables, as text."""
    (log,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    tables = folder.glob("wandb/offline-run-*/files/media/table/*.json")
    return "\n".join(file.read_bytes().decode(errors="replace") for file in (log, *tables))


def test_a_run_offline_keeps_configuration_curves_widths_and_figures(
    smallest: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "abc"
    folder.mkdir()
    config = smallest("logger=wandb")
    logger = WandbLogger(project="tests")
    logger.start(folder, config)
    logger.epoch(EpochRow("recovery", 1, 0.1, {"val/top1": 0.8125}))
    logger.finish(record_of(config))
    logger.close()
    assert wandb.run is None
    written = everything_written(folder)
    for expected in (
        "recovery/val/top1",
        "0.8125",
        "layer1",
        '"layer1",16,7',
        "one_shot",
        "0.4993",
        "after_pruning",
    ):
        assert expected in written, expected
    assert (folder / "curves.csv").read_text().count("recovery,1") == 1
    assert not (tmp_path / "wandb").exists()
    assert capfd.readouterr().out == ""


def test_online_without_an_account_is_refused_not_asked_for(smallest: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not logged in.*wandb login"):
        WandbLogger(mode="online").start(tmp_path, smallest())


def test_an_unknown_mode() -> None:
    with pytest.raises(UserError, match=r"logger\.mode=ofline.*'offline'"):
        WandbLogger(mode="ofline")


@pytest.mark.parametrize(
    ("setting", "environment", "expected"),
    [
        ("auto", "", "offline"),
        ("auto", "disabled", "disabled"),
        ("auto", "offline", "offline"),
        ("disabled", "online", "disabled"),
    ],
)
def test_the_mode(setting: str, environment: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if environment:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert WandbLogger(mode=setting).resolved_mode() == expected


def test_a_key_means_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own, because W&B remembers a key that it has seen."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    ask = "from prunelab.logging import WandbLogger; print(WandbLogger().resolved_mode())"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout == "online\n"
