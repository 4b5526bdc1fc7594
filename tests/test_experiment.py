"""A run from its configuration to its record, and its files after an interruption."""

from __future__ import annotations

import csv
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.forks import Forks

import prunelab
from prunelab.cli.config import configure
from prunelab.data import Digits
from prunelab.errors import UserError
from prunelab.evaluation import accuracy
from prunelab.experiment import run
from prunelab.records import Accuracy, Record, RunFolder, claim
from prunelab.records.schema import Failure
from prunelab.steps import rounds
from prunelab.structure import analyze

pytestmark = pytest.mark.slow

Configure = Callable[..., dict[str, Any]]

KILLED_RUN = Path(__file__).parent / "killed_run.py"
SUSPENDED_RUN = Path(__file__).parent / "suspended_run.py"
OTHER_MACHINE = ["unshare", "--uts", "sh", "-c", 'hostname another-machine && exec "$@"', "sh"]
"""Starts a process for which the kernel reports another host name."""

LEASE_S = 1.5


def files(folder: Path) -> dict[str, int]:
    """Every file below ``folder`` and the time of its last change."""
    return {
        str(file.relative_to(folder)): file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()
    }


def curves(folder: Path) -> list[tuple[str, str]]:
    with (folder / "curves.csv").open(newline="") as lines:
        return [(row["phase"], row["epoch"]) for row in csv.DictReader(lines)]


def test_a_run_leaves_a_true_record_and_is_not_repeated(smallest: Configure, tmp_path: Path) -> None:
    config = smallest("method=taylor", "seed=1")
    outcome = run(config)
    record, folder = outcome.record, outcome.folder.path
    assert outcome.is_new
    assert sorted(file.name for file in folder.iterdir() if not file.name.startswith(".")) == [
        "config.yaml", "contents.json", "curves.csv", "model.safetensors", "plan.json", "record.json", "run.log",
    ]  # fmt: skip
    assert Record.from_json((folder / "record.json").read_text()) == record
    assert (record.method, record.model, record.data, record.seed) == ("taylor", "resnet20", "digits", 1)
    assert curves(folder) == [("recovery", "1")]

    network = prunelab.load(folder)
    cost = analyze(network, torch.zeros(1, 1, 8, 8)).cost
    assert (cost.flops(), cost.params()) == (record.pruned.flops, record.pruned.params)
    assert record.budget.reached == record.pruned.flops / record.baseline.flops
    assert 0.48 < record.budget.reached <= 0.5
    data = Digits(seed=1)
    data.setup()
    measured = accuracy(network, data.test_dataloader(), 10, torch.device("cpu"))
    assert measured.top1 == record.pruned.top1
    assert record.plan.masked_vs_pruned < 1e-6
    assert all(times > 0 for times in (*record.baseline.latency_ms.values(), record.timings.score_s))

    before = files(tmp_path)
    again = run(config)
    assert not again.is_new
    assert again.record == record
    assert files(tmp_path) == before


def test_the_best_epoch_is_the_one_with_the_highest_accuracy_on_validation_images(
    smallest: Configure,
) -> None:
    outcome = run(smallest("recipe.training.epochs=4", "recipe.training.lr=0.3"))

    best, record = outcome.record.best_epoch, outcome.record
    with (outcome.folder.path / "curves.csv").open(newline="") as lines:
        curve = {int(row["epoch"]): float(row["val/top1"]) for row in csv.DictReader(lines)}
    assert best is not None and record.validation is not None
    assert best.epoch == max(epoch for epoch, top1 in curve.items() if top1 == max(curve.values()))
    assert best.validation.top1 == pytest.approx(curve[best.epoch], abs=1e-6)
    assert record.validation.top1 == pytest.approx(curve[4], abs=1e-6)
    if best.epoch == 4:
        assert best.test == Accuracy(record.pruned.top1, record.pruned.top5)
    assert record.test_set is not None
    assert (record.test_set.images, record.test_set.largest_class) == (360, pytest.approx(37 / 360))


def test_layers_of_low_rank_follow_the_recovery(smallest: Configure) -> None:
    words = ["lowrank=svd", "lowrank.flops=0.8", "lowrank.images=32", "budget.target.runtime=eager"]
    outcome = run(smallest(*words))
    record, stages = outcome.record, {stage.name: stage for stage in outcome.record.stages}

    assert [*stages] == ["full", "pruned", "recovered", "low rank", "low rank, recovered"]
    assert record.lowrank == "svd, flops=0.8"
    assert curves(outcome.folder.path) == [("recovery", "1"), ("low-rank", "1")]
    pruned, last = stages["recovered"], stages["low rank, recovered"]
    assert 0.7 * pruned.flops < last.flops <= 0.8 * pruned.flops
    assert (last.flops, last.params, last.top1) == (
        record.pruned.flops,
        record.pruned.params,
        record.pruned.top1,
    )
    assert record.budget.reached == pruned.flops / stages["full"].flops
    assert all(
        [*stage.latency_ms] == [1, 64] and times.p90 >= times.p50 > 0
        for stage in stages.values()
        for times in stage.latency_ms.values()
    )
    network = prunelab.load(outcome.folder.path)
    assert analyze(network, torch.zeros(1, 1, 8, 8)).cost.flops() == last.flops
    assert record.plan.factorised
    for path in record.plan.factorised:
        assert isinstance(network.get_submodule(path), torch.nn.Sequential)


def test_without_a_recovery_there_is_no_best_epoch(tmp_path: Path) -> None:
    words = [
        "budget.flops=0.5",
        "method=l1",
        "baseline.training.epochs=1",
        "trainer=cpu",
        "study=tests",
        "recipe=none",
    ]

    assert run(configure([*words, f"outputs={tmp_path}"])).record.best_epoch is None


def test_a_baseline_at_chance_level_is_a_warning(
    smallest: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="prunelab"):
        run(smallest("baseline.training.lr=1e-9"))
        bad = caplog.text
        caplog.clear()
        run(smallest("baseline.training.epochs=4", "baseline.training.lr=0.02"))

    assert "The baseline, resnet20 on digits, is at chance level" in bad
    assert "chance level" not in caplog.text


def test_runs_share_a_baseline_and_an_iterative_one_meets_the_budget_in_rounds(smallest: Configure) -> None:
    first = run(smallest()).record
    words = ["recipe=iterative", "recipe.number=2", "recipe.round_training.epochs=1"]
    second = run(smallest(*words))
    record = second.record
    assert record.timings.baseline_s == 0 < first.timings.baseline_s
    assert record.baseline.top1 == first.baseline.top1
    assert curves(second.folder.path) == [("round 1", "1"), ("recovery", "1")]
    assert 0.48 < (record.budget.reached or 0) <= 0.5
    network = prunelab.load(second.folder.path)
    assert sum(parameter.numel() for parameter in network.parameters()) == record.pruned.params


def test_a_failed_run_stores_its_reason_and_runs_after_the_cause_is_removed(
    smallest: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = smallest()
    folder = RunFolder.of(config)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("prunelab.experiment.write_network", full)
        with pytest.raises(OSError, match="No space"):
            run(config)
    failure = Failure.from_json((folder.path / "failure.json").read_text())
    assert failure.error.startswith("The disk is full.")
    assert "Traceback" in folder.log_file.read_text()
    assert folder.record() is None
    assert run(config).is_new
    assert not (folder.path / "failure.json").exists()


def test_a_budget_out_of_reach_is_said_before_anything_is_trained(smallest: Configure) -> None:
    config = smallest("budget.flops=0.001")
    with pytest.raises(UserError, match=r"budget\.flops=0\.001 cannot be reached: the smallest for resnet20"):
        run(config)
    assert not (Path(config["outputs"]) / "baselines").exists()
    assert RunFolder.of(config).record() is None


def test_a_run_killed_again_and_again_ends_like_an_unbroken_one(
    smallest: Configure, tmp_path: Path, forks: Forks
) -> None:
    words = ["baseline.training.epochs=2", "recipe.training.epochs=2", "method=taylor"]
    config = smallest(*words, f"outputs={tmp_path / 'killed'}")
    folder = RunFolder.of(config)
    baseline = tmp_path / "killed" / "baselines"
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))

    def killed(point: str) -> set[str]:
        started = forks.start(tmp_path, str(file), point, program=KILLED_RUN)
        assert forks.wait(started) == -signal.SIGKILL, started.said()
        assert folder.record() is None
        assert not list(tmp_path.rglob("failure.json"))
        return {path.name for path in (*folder.path.rglob("*"), *baseline.rglob("*")) if path.is_file()}

    assert "metrics.json" not in killed("after the first epoch of a training")
    assert {"metrics.json", "decision.json"} <= killed("after a decision")
    assert any(name.endswith(".ckpt") for name in killed("after the first epoch of a training"))
    assert "model.safetensors" in killed("before the record")
    resumed, unbroken = run(config), run(smallest(*words))

    assert resumed.is_new
    for figure in ("baseline", "pruned"):
        ours, theirs = getattr(resumed.record, figure), getattr(unbroken.record, figure)
        assert (ours.top1, ours.flops, ours.params) == (theirs.top1, theirs.flops, theirs.params)
    assert resumed.record.plan == unbroken.record.plan
    assert resumed.record.after_pruning == unbroken.record.after_pruning
    assert resumed.record.timings.recovery_s > 0
    assert curves(folder.path) == curves(unbroken.folder.path)
    ours = (folder.path / "model.safetensors").read_bytes()
    assert ours == (unbroken.folder.path / "model.safetensors").read_bytes()


def flip(file: Path, place: float = 0.5) -> None:
    """Change one bit of a file."""
    content = bytearray(file.read_bytes())
    content[int(place * len(content))] ^= 1
    file.write_bytes(content)


def test_an_interrupted_run_whose_files_are_damaged_ends_like_an_unbroken_one(
    smallest: Configure, tmp_path: Path, caplog: pytest.LogCaptureFixture, forks: Forks
) -> None:
    words = [
        "recipe=iterative",
        "recipe.number=2",
        "recipe.round_training.epochs=1",
        "recipe.training.epochs=2",
    ]
    config = smallest(*words, f"outputs={tmp_path / 'killed'}")
    folder = RunFolder.of(config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    started = forks.start(tmp_path, str(file), "before the record", program=KILLED_RUN)
    assert forks.wait(started) == -signal.SIGKILL, started.said()
    unbroken = run(smallest(*words))

    (weights,) = (tmp_path / "killed" / "baselines").glob("*/model.safetensors")
    (checkpoint,) = folder.path.glob("rounds/2/*/epoch-0002.*.ckpt")
    decision = folder.path / "rounds" / "1" / "decision.json"
    for damaged in (weights, checkpoint, decision):
        flip(damaged)
    ran = tmp_path / "ran"
    (folder.path / "config.yaml").write_text(f"!!python/object/apply:os.system ['touch {ran}']\n")
    rows = (folder.path / "curves.csv").read_text().splitlines(keepends=True)
    figures = rows[1].split(",")
    (folder.path / "curves.csv").write_text(
        "".join([rows[0], ",".join([*figures[:3], "0.1", *figures[4:]]), *rows[2:]])
    )
    with caplog.at_level(logging.WARNING, "prunelab"):
        resumed = run(config)

    for damaged in (weights, checkpoint, decision, folder.path / "curves.csv"):
        assert str(damaged.parent if damaged == weights else damaged) in caplog.text
    assert not ran.exists()
    assert weights.with_name("model.safetensors.damaged").is_file()
    assert (folder.path / "curves.csv.damaged").is_file()
    ours = {
        name: (folder.path / name).read_bytes() for name in ("model.safetensors", "plan.json", "curves.csv")
    }
    assert ours == {name: (unbroken.folder.path / name).read_bytes() for name in ours}
    assert resumed.record.pruned.top1 == unbroken.record.pruned.top1


def test_an_unreadable_curves_file_is_written_again(
    smallest: Configure, tmp_path: Path, forks: Forks
) -> None:
    config = smallest()
    folder = RunFolder.of(config)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    started = forks.start(tmp_path, str(file), "before the record", program=KILLED_RUN)
    assert forks.wait(started) == -signal.SIGKILL, started.said()
    before, killed = (folder.path / "curves.csv").read_bytes(), tmp_path / "killed"
    shutil.copytree(config["outputs"], killed)
    for content in (b"", b"\x00\xff", b"phase,epoch\nrecovery,one\n"):
        shutil.rmtree(config["outputs"])
        shutil.copytree(killed, config["outputs"])
        (folder.path / "curves.csv").write_bytes(content)
        run(config)
        assert (folder.path / "curves.csv").read_bytes() == before


def test_a_recovery_that_diverges_fails(smallest: Configure) -> None:
    config = smallest("recipe.training.lr=1e30", "recipe.training.epochs=2")
    folder = RunFolder.of(config)
    with pytest.raises(UserError, match="NaN or infinite after recovery, epoch 1"):
        run(config)
    assert folder.record() is None
    assert not (folder.path / "model.safetensors").exists()
    assert "has diverged" in Failure.from_json((folder.path / "failure.json").read_text()).error


def test_learning_that_diverges_to_huge_weights_is_a_mistake_of_the_user(smallest: Configure) -> None:
    config = smallest("method=slimming", "method.epochs=1", "method.training.lr=1e9")
    with pytest.raises(UserError, match="NaN or infinite"):
        run(config)
    assert RunFolder.of(config).record() is None


def test_weights_that_become_infinite_between_trainings_make_no_record(
    smallest: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any cause; here the last step before the figures."""
    config = smallest()
    recover = rounds._recover

    def ruined(setup: Any, network: torch.nn.Module, *others: Any) -> float:
        seconds = recover(setup, network, *others)
        with torch.no_grad():
            next(network.parameters()).fill_(float("inf"))
        return seconds

    monkeypatch.setattr(rounds, "_recover", ruined)
    with pytest.raises(UserError, match="NaN or infinite"):
        run(config)
    assert RunFolder.of(config).record() is None


def test_a_process_that_was_suspended_longer_than_its_lease_replaces_nothing(
    smallest: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("unshare") is None or subprocess.run([*OTHER_MACHINE, "true"], check=False).returncode:
        pytest.skip("this machine does not allow another host name")
    monkeypatch.setattr(claim, "LEASE_S", LEASE_S)
    config = smallest()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    command = [*OTHER_MACHINE, sys.executable, SUSPENDED_RUN, file, str(LEASE_S)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        outcome = run(config)
        written = files(tmp_path)
        os.kill(process.pid, signal.SIGCONT)
        said = process.communicate(timeout=120)[1]
    finally:
        process.kill()
    assert outcome.is_new
    assert process.returncode == 1
    assert "ClaimLost: Another process has taken over the run" in said
    after = files(tmp_path)
    log = str(outcome.folder.log_file.relative_to(tmp_path))
    assert {name: time for name, time in after.items() if name != log} == {
        name: time for name, time in written.items() if name != log
    }


def test_of_two_processes_with_the_same_run_one_does_it(
    smallest: Configure, tmp_path: Path, forks: Forks
) -> None:
    config = smallest()
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys\nfrom prunelab.experiment import run\n"
        "sys.exit(10 + run(json.load(open(sys.argv[1]))).is_new)\n"
    )
    both = [forks.start(tmp_path, str(file), program=program) for _ in range(2)]
    assert sorted(forks.wait(each) for each in both) == [10, 11], both[0].said() + both[1].said()
    assert len(list((tmp_path / "outputs" / "baselines").iterdir())) == 1


def test_two_processes_do_a_sweep_together(smallest: Configure, tmp_path: Path) -> None:
    """Real processes on the CPU: the second one is started by the first, in its first unfinished run."""
    there = run(smallest("seed=0"))
    script = tmp_path / "prunelab"
    script.write_text("from prunelab.cli.run import main\nmain()\n")
    words = [
        "budget.flops=0.5", "method=l1", "baseline.training.epochs=1", "recipe.training.epochs=1", "study=tests",
        "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1",
    ]  # fmt: skip
    command = [sys.executable, script, "-m", *words]
    sweep = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert sweep.returncode == 0, sweep.stderr
    assert "1 finished, 1 already there, 0 failed." in sweep.stdout
    folders = [path.parent for path in (tmp_path / "outputs" / "tests").glob("*/record.json")]
    (new,) = (folder for folder in folders if folder != there.folder.path)
    record = Record.from_json((new / "record.json").read_text())
    assert record.seed == 1
    assert record.timings.baseline_s > 0
    assert record.plan.masked_vs_pruned < 1e-6
    assert curves(new) == [("recovery", "1")]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started here use one thread."""
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
