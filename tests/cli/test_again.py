"""A repeated run has the results of its record."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunelab.cli.again import changed, main
from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.records.known_keys import check_parts

pytestmark = pytest.mark.slow

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "records"
Configure = Callable[..., dict[str, Any]]


def test_a_repeated_run_has_the_same_figures(
    smallest: Configure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run(smallest("method=l2"))

    assert main([str(first.folder.path), f"outputs={tmp_path / 'elsewhere'}"]) == 0

    output = capsys.readouterr().out
    (folder,) = (tmp_path / "elsewhere" / "tests-again").iterdir()
    assert folder.name == first.record.key
    lines = {line[2:20].strip(): line[20:].split() for line in output.splitlines()[1:-1]}
    assert lines["top-1, recovered"] == [f"{first.record.pruned.top1:.2%}"] * 2
    assert lines["plan"] == [first.record.plan.digest[:12]] * 2
    assert output.startswith("l2 on resnet20, digits, seed 0: then and now\n")


def test_the_runs_of_a_study_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "demo"
    shutil.copytree(DEMO, study)
    (study / "damaged").mkdir()
    (study / "damaged" / "record.json").write_text("{")
    runs = sorted(study.glob("*/record.json"))

    assert main([str(study)]) == 1

    message, *lines = capsys.readouterr().err.splitlines()
    assert f"{study} is a study. Give one of its {len(runs)} runs:" in message
    assert [line.split()[0] for line in lines] == [str(file.parent) for file in runs]
    whole = [line for line in lines if "damaged" not in line]
    assert all("resnet20, digits, flops=0.5, seed 0" in line for line in whole)
    assert {line.split()[1] for line in whole} >= {"l1,", "taylor,"}


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("data.root", "'data.root' is not understood. Write key=value"),
        ("data.rot=x", "has no setting 'data.rot'. Did you mean 'data.root'"),
        ("trainers.devices=1", "has no setting 'trainers.devices'"),
        ("seed.x=1", "'seed.x=1' cannot be set|has no setting 'seed.x'"),
    ],
)
def test_settings_that_the_run_did_not_have_are_errors(word: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        changed({"seed": 0, "data": {"root": None}, "trainer": {"devices": 1}}, [word])


def test_settings_are_changed() -> None:
    before = {"seed": 0, "data": {"root": None, "mean": [1, 2]}}

    assert changed(before, ["data.root=/images", "seed=3", "data.mean=[5]"]) == {
        "seed": 3,
        "data": {"root": "/images", "mean": [5]},
    }
    assert before["data"]["root"] is None


def test_copies_of_a_setting_change_with_it() -> None:
    """A recorded configuration is resolved: budget.flops without its copies would have no effect."""
    before = configure(["method=l1", "budget.flops=0.5", "seed=1", "budget.min_keep=0.2"])
    after = changed(before, ["budget.flops=0.4", "seed=2", "levels=[filter]", "data.seed=7"])
    expected = configure(
        ["method=l1", "budget.flops=0.4", "seed=2", "levels=[filter]", "budget.min_keep=0.2", "data.seed=7"]
    )
    assert after == expected
    sfp = configure(["method=sfp", "budget.flops=0.5"])  # which has an allocation of its own
    assert changed(sfp, ["budget.allocation=uniform"])["method"] == sfp["method"]


def test_a_group_is_not_exchanged() -> None:
    with pytest.raises(UserError, match=r"method=l2: .*cannot be exchanged; .* method\.KEY=VALUE"):
        changed(configure(["budget.flops=0.5"]), ["method=l2"])


def test_an_invalid_record_is_a_user_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere.json")]) == 1
    (tmp_path / "record.json").write_text('{"schema": 1')
    assert main([str(tmp_path)]) == 1

    absent, cut = capsys.readouterr().err.splitlines()
    assert absent.endswith("cannot be read: No such file or directory. Give the record.json of a run.")
    assert "is not a usable record: not valid JSON" in cut


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": None}, "recipe must be a group of keys, not null."),
        ({"outputs": ["a"]}, "outputs must be the name of a folder, not ['a']."),
    ],
)
def test_a_configuration_without_its_parts_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        check_parts({**configure(["budget.flops=0.5"]), **change})
