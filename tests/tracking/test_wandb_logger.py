"""W&B with its real client, offline: without an account, without a network, without a prompt."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from prunelab.errors import UserError
from prunelab.records import Accuracy, BudgetSummary, GitState, Metrics, PlanSummary, Timings
from prunelab.records import Record as RunRecord
from prunelab.records.deployment import Percentiles, Stage
from prunelab.report.measures import MEASURES
from prunelab.tracking import EpochRow, WandbLogger

Configure = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def logged_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No key in the environment or in the home folder; a prompt would fail, because there is no input."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "stdin", None)


def record_of(config: dict[str, Any]) -> RunRecord:
    metrics = Metrics(0.9, 1.0, 100, 50, 10, {1: 0.5})
    return RunRecord(
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
        stages=(
            Stage(
                "full", "eager", "fp32", 40_000, 0.9, 1.0, None, None, {1: Percentiles(0.5, 0.75)}, 100, 10
            ),
        ),
    )


@dataclass(frozen=True)
class Written:
    """The files of one W&B run for a later upload."""

    run: Any
    config: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    has_ended: bool


def written(folder: Path) -> dict[str, Written]:
    """The runs whose files lie in ``folder``, by their job types."""
    return {
        each.run.job_type: each for each in map(read, sorted(folder.glob("wandb/offline-run-*/run-*.wandb")))
    }


def read(file: Path) -> Written:
    records = list(map(Record.FromString, entries(file.read_bytes())))
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    return Written(
        run=runs[0],
        config=values(update for run in runs for update in run.config.update),
        history=[values(record.history.item) for record in records if record.history.item],
        summary=values(update for record in records for update in record.summary.update),
        has_ended=any(record.WhichOneof("record_type") == "exit" for record in records),
    )


def values(items: Iterable[Any]) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def entries(content: bytes) -> Iterator[bytes]:
    """The entries of a log in LevelDB's format: blocks of 32 KiB; checksum, length and kind before each piece."""
    position, entry = 7, b""
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
        length, kind = struct.unpack_from("<HB", content, position + 4)
        entry += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole entry, or the last piece of one
            yield entry
            entry = b""


@pytest.mark.slow
def test_a_run_offline_keeps_configuration_curves_widths_and_figures(
    smallest: Configure, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "abc"
    folder.mkdir()
    config = smallest("logger=wandb")
    logger = WandbLogger(project="tests")
    logger.start(folder, config)
    logger.epoch(EpochRow("round 1", 1, 0.1, {"val/top1": 0.5}))
    logger.epoch(EpochRow("round 2", 1, 0.1, {"val/top1": 0.625}))
    logger.epoch(EpochRow("recovery", 1, 0.1, {"val/top1": 0.8125}))
    logger.finish(record_of(config))
    logger.close()

    runs = written(folder)
    assert set(runs) == {"round", "recovery", "result"}
    for job, each in runs.items():
        assert each.run.display_name == "l1 flops=0.5 resnet20 digits seed 0"
        assert each.has_ended  # read at once: the file was whole when close() returned
        assert (each.run.project, each.run.run_group, each.run.run_id) == ("tests", "tests", f"abc-{job}")
        assert list(each.run.tags) == ["l1", "resnet20", "digits"]
        assert each.config["names"]["method"] == "l1"
        assert each.config["budget"]["flops"] == 0.5
    rounds = [(line["_step"], line["epoch"], line["val/top1"]) for line in runs["round"].history]
    assert rounds == [(1, 1, 0.5), (2, 1, 0.625)]
    assert runs["recovery"].history[0]["val/top1"] == 0.8125
    figures = {measure.name for measure in MEASURES}
    assert figures - set(runs["result"].summary) <= {
        "best_epoch_top1",
        "best_epoch",
        "other_load",
        "calibrated_top1",
        "forward_ms_batch_64",
        "baseline_forward_ms_batch_64",
        "speedup_batch_64",
    }
    assert runs["result"].summary["budget_reached"] == 0.4993
    assert runs["result"].summary["after_pruning_top1"] == 0.25
    stages, widths = sorted(folder.glob("wandb/offline-run-*/files/media/table/*.json"))
    assert json.loads(widths.read_text())["data"] == [["layer1", 16, 7]]
    assert json.loads(stages.read_text())["data"] == [
        ["full, eager", "90.00%", "100.00%", "100", "10", "40 KB", "0.50 / 0.75 ms"]
    ]
    record = record_of(config)
    WandbLogger(project="tests").deployed(
        folder, config, [*record.stages, replace(record.stages[0], name="exported", runtime="onnxruntime")]
    )
    (after,) = set(folder.glob("wandb/offline-run-*/files/media/table/*.json")) - {stages, widths}
    assert [row[0] for row in json.loads(after.read_text())["data"]] == [
        "full, eager",
        "exported, onnxruntime",
    ]
    assert "abc-result" in str(after)
    assert wandb.run is None
    assert (folder / "curves.csv").read_text().count("recovery,1") == 1
    assert not (tmp_path / "wandb").exists()
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_the_training_of_a_baseline_is_one_run_for_all_that_share_it(
    smallest: Configure, tmp_path: Path
) -> None:
    """The first run is interrupted in the training; the second one, of another method, continues it."""
    for key, method, epochs in (("abc", "l1", (1,)), ("def", "l2", (2, 3))):
        folder = tmp_path / key
        folder.mkdir()
        logger = WandbLogger()
        logger.start(folder, smallest(f"method={method}"), baseline_key="0a0a")
        for epoch in epochs:
            logger.baseline_epoch(EpochRow("baseline", epoch, 0.1, {"val/top1": epoch / 4}))
        if key == "def":
            logger.baseline_finished(Accuracy(0.75, None))
        logger.close()

    first, second = (written(tmp_path / key)["baseline"] for key in ("abc", "def"))
    assert first.run.run_id == second.run.run_id == "0a0a-baseline"
    assert first.run.run_group == second.run.run_group == "tests"
    assert first.run.display_name == second.run.display_name == "baseline resnet20 digits seed 0"
    steps = [[(line["_step"], line["val/top1"]) for line in each.history] for each in (first, second)]
    assert steps == [[(1, 0.25)], [(2, 0.5), (3, 0.75)]]
    assert second.summary["top1"] == 0.75
    assert not (tmp_path / "abc" / "curves.csv").exists()  # the curves of a baseline are in its own folder


@pytest.mark.slow
def test_a_resumed_run_continues_the_steps(smallest: Configure, tmp_path: Path) -> None:
    for epochs in ((1, 2), (3,)):  # two processes, one after the other
        logger = WandbLogger()
        logger.start(tmp_path, smallest())
        for epoch in epochs:
            logger.epoch(EpochRow("recovery", epoch, 0.1, {}))
        logger.close()

    files = [read(file) for file in sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))]
    assert len({each.run.run_id for each in files}) == 1
    steps = [[line["_step"] for line in each.history] for each in files]
    assert sorted(steps) == [[1, 2], [3]]


@pytest.mark.slow
def test_without_a_network_a_run_continues_offline_with_one_message(
    smallest: Configure, tmp_path: Path
) -> None:
    """In a separate process, with a key and an address without a server."""
    program = (
        "import logging, sys\n"
        "from pathlib import Path\n"
        "from prunelab.cli.config import configure\n"
        "from prunelab.tracking import EpochRow, WandbLogger\n"
        "logging.basicConfig(format='%(message)s')\n"
        "for name in 'ab':\n"
        "    folder = Path(sys.argv[1]) / name\n"
        "    folder.mkdir()\n"
        "    logger = WandbLogger(mode='online')\n"
        "    logger.start(folder, configure(['budget.flops=0.5']))\n"
        "    logger.epoch(EpochRow('recovery', 1, 0.1, {}))\n"
        "    logger.close()\n"
    )
    nobody = {"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    proxies = {name for name in os.environ if name.lower().endswith("_proxy")}
    environment = {name: value for name, value in os.environ.items() if name not in proxies} | nobody

    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )

    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if "W&B" in line]
    assert said == [
        "W&B is not reachable (127.0.0.1: Connection refused). "
        f"Upload the runs later with: wandb sync {tmp_path}/*/wandb/offline-run-*"
    ]
    assert [set(written(tmp_path / name)) for name in "ab"] == [{"recovery"}, {"recovery"}]


def test_online_without_an_account_is_an_error_and_not_a_prompt(smallest: Configure, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not logged in.*wandb login"):
        WandbLogger(mode="online").start(tmp_path, smallest())


def test_an_unknown_mode() -> None:
    with pytest.raises(UserError, match=r"logger\.mode=ofline.*'offline'"):
        WandbLogger(mode="ofline")


@pytest.mark.parametrize("project", ["team/project", "x" * 129, ""])
def test_an_impossible_project(project: str) -> None:
    with pytest.raises(UserError, match=r"logger\.project=.* is not a name"):
        WandbLogger(project)


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


@pytest.mark.slow
def test_a_key_means_online(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a separate process, because W&B caches a key."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    ask = "from prunelab.tracking import WandbLogger; print(WandbLogger().resolved_mode())"
    answer = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    assert answer.stdout == "online\n"
