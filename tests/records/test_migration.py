"""Runs of earlier versions are found again after a migration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from omegaconf import OmegaConf

from prunelab.cli.config import configure
from prunelab.cli.migrate import main
from prunelab.records import Record, baseline_key, run_key
from prunelab.records.claim import LOCK_FILE
from prunelab.records.migration import FIRST_WITHOUT_EFFECT

Study = Callable[..., Path]
WORDS = ("budget.flops=0.5", "method=l2", "exclude=[conv1]", "budget.min_keep=0.2")
OLD_KEY = "0123456789ab"
FORMER = {
    "prunelab.recipes.": "prunelab.recovery.",
    "prunelab.training.Training": "prunelab.models.Training",
    "prunelab.training.Machine": "prunelab.recovery.Machine",
    "prunelab.tracking.": "prunelab.logging.",
}


def former(config: dict[str, Any]) -> dict[str, Any]:
    """``config`` in the form of the version before the regrouping of the packages."""
    config = {**config, "trainer": {**config["trainer"], "sync_batchnorm": False}}  # the default then
    names = {"exclude": "whole", "min_keep": "floor"}
    config["method"] = {names.get(key, key): value for key, value in config["method"].items()}
    text = json.dumps(config)
    for present, then in FORMER.items():
        text = text.replace(present, then)
    return json.loads(text)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Writes a run of an earlier version into outputs/study; returns its folder."""

    def written(*words: str, finished: bool = True, name: str = OLD_KEY) -> Path:
        config = former(configure([*WORDS, *words]))
        folder = tmp_path / "outputs" / "study" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config)))
        if finished:
            (folder / "record.json").write_text(json.dumps({**RECORD, "key": name, "config": config}))
        return folder

    return written


def test_a_finished_run_is_found_under_its_present_key(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = study()
    (before / "plan.json").write_text("{}")
    wanted = configure(WORDS)

    assert main([str(before.parent)]) == 0

    assert not before.exists()
    now = before.with_name(run_key(wanted))
    recorded = {**wanted, "trainer": {**wanted["trainer"], "sync_batchnorm": False}}  # as it ran: one process
    record = Record.from_json((now / "record.json").read_text())
    assert (record.key, record.key_schema, record.config) == (now.name, 2, recorded)
    assert record.pruned.top1 == 0.9
    assert json.loads((now / "record.json").read_text())["added_by_a_user"] == "stays"
    assert (now / "plan.json").is_file()
    assert OmegaConf.to_container(OmegaConf.load(now / "config.yaml")) == recorded
    assert "1 migrated, 0 left" in capsys.readouterr().out


def test_the_second_time_nothing_is_done(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study().parent
    study("seed=1", finished=False, name="unfinished")
    main([str(folder)])
    content = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()

    assert main([str(folder)]) == 0

    assert "0 migrated, 0 left" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == content


def test_a_migration_that_was_killed_before_the_renaming_is_continued(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = study()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _interrupt)
        assert main([str(before)]) == 130
    assert before.is_dir()
    assert main([str(before)]) == 0
    assert Record.from_json((before.with_name(run_key(configure(WORDS))) / "record.json").read_text())


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_trial_run_of_the_migration_changes_nothing(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    before = study()
    content = (before / "record.json").read_bytes()
    assert main(["--dry-run", str(before.parent.parent)]) == 0
    assert "1 would be migrated" in capsys.readouterr().out
    assert (before / "record.json").read_bytes() == content


def test_a_run_that_exists_twice_is_not_replaced(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before, same = study(), study(name=run_key(configure(WORDS)))
    (same / "record.json").unlink()
    assert main([str(before.parent)]) == 1
    assert f"{same.name} in the same folder is the same run" in capsys.readouterr().out
    assert (before / "record.json").is_file()


def test_a_damaged_record_is_reported_and_the_others_are_migrated(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    (study() / "record.json").write_text('{"schema": 1,')
    study("seed=1", name="another")
    assert main([str(study("seed=2", name="third").parent)]) == 1
    said = capsys.readouterr().out
    assert "not valid JSON" in said
    assert "2 migrated, 1 left" in said


def test_an_active_run_is_not_migrated(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    run = study(finished=False)
    with FileLock(run / LOCK_FILE):
        assert main([str(run)]) == 1
    assert "a process works on it" in capsys.readouterr().out
    assert main([str(run)]) == 0


def test_the_baseline_of_a_run_is_found_again(study: Study) -> None:
    run = study(finished=False)
    store = run.parent.parent / "baselines"
    first = _first_baseline_key(former(configure(WORDS)))
    (store / first).mkdir(parents=True)
    main([str(run)])
    assert [path.name for path in store.iterdir()] == [baseline_key(configure(WORDS))]


def _first_baseline_key(config: dict[str, Any]) -> str:
    """The key as computed by the first version."""
    import hashlib

    for name in FIRST_WITHOUT_EFFECT:
        group, _, key = name.partition(".")
        config[group].pop(key, None)
    assert not config["trainer"].pop("sync_batchnorm")
    kept = {name: config[name] for name in ("data", "model", "baseline", "seed", "trainer")}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def test_weights_that_are_elsewhere_now_are_named(study: Study, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(b"weights")
    run = study("baseline=file", "baseline.path=gone.safetensors")
    assert main([str(run), "--at", f"baseline.path={weights}"]) == 0
    wanted = configure([*WORDS, "baseline=file", f"baseline.path={weights}"])
    assert (run.parent / run_key(wanted) / "record.json").is_file()


def test_a_wrong_place_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--at", "data.seed=1"]) == 1
    assert main([str(tmp_path / "nowhere")]) == 1
    said = capsys.readouterr().err
    assert "--at data.seed=1: write data.root=... or baseline.path=..." in said
    assert "is not a folder" in said


def network(top1: float) -> dict[str, Any]:
    return {"top1": top1, "top5": None, "flops": 80, "macs": 40, "params": 9, "latency_ms": {"1": 2.0}}


RECORD: dict[str, Any] = {
    "schema": 1,
    "status": "finished",
    "study": "study",
    "method": "l2",
    "model": "resnet20",
    "data": "digits",
    "seed": 0,
    "levels": ["filter", "stage"],
    "budget": {"resource": "flops", "keep": 0.5, "reached": 0.5, "allocation": "global", "divisor": 1},
    "recipe": "one_shot",
    "baseline": network(0.95),
    "after_pruning": {"top1": 0.5, "top5": None},
    "pruned": network(0.9),
    "plan": {"widths": {}, "dropped_blocks": [], "digest": "00", "masked_vs_pruned": 0.0},
    "timings": {"baseline_s": 0, "score_s": 0, "recovery_s": 0, "evaluate_s": 0, "total_s": 0},
    "versions": {},
    "hardware": {},
    "git": {"revision": None, "dirty": False},
    "started": "2026-11-24T10:00:00+00:00",
    "finished": "2026-11-24T10:01:00+00:00",
    "added_by_a_user": "stays",
}
