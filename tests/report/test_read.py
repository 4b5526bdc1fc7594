from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunelab.errors import UserError
from prunelab.report import read_study
from prunelab.report.unfinished import Intention

if TYPE_CHECKING:
    from conftest import StudyFolder


def test_the_state_of_a_run_follows_from_its_files(study: StudyFolder) -> None:
    study.finished("l1")
    study.failed("fpgm")
    study.write("0a0a/config.yaml", "seed: 0\n")
    study.write("notes/readme.txt", "not a run")

    found = read_study(study.path)

    assert found.name == "demo"
    assert [run.record.method for run in found.finished] == ["l1"]
    assert [run.failure.method for run in found.failed] == ["fpgm"]
    assert [run.path for run in found.unfinished] == [Path("0a0a")]
    assert found.problems == ()


def test_an_unfinished_run_is_identified_by_its_configuration(study: StudyFolder) -> None:
    study.write(
        "0a0a/config.yaml",
        "names: {method: l1, model: resnet20, data: digits, recipe: one_shot}\n"
        "levels: [filter, stage]\nseed: 3\nbudget: {flops: 0.5, params: null}\n",
    )
    study.write("1b1b/config.yaml", "names: [broken\n")
    study.write("2c2c/config.yaml", "")

    known, broken, empty = read_study(study.path).unfinished

    assert known.intention == Intention("l1", "resnet20", "digits", 3, ("filter", "stage"), {"flops": 0.5})
    assert broken.intention is None
    assert empty.intention is None


def test_a_record_replaces_an_earlier_failure(study: StudyFolder) -> None:
    study.failed("l1")
    study.finished("l1")

    found = read_study(study.path)

    assert len(found.finished) == 1
    assert found.failed == ()


def test_unusable_files_become_problems_with_path_and_reason(study: StudyFolder) -> None:
    good = study.finished("l1")
    study.write("a/record.json", json.dumps(good)[:99])
    study.write("b/record.json", json.dumps({**good, "schema": 2}))
    study.write("c/record.json", json.dumps({**good, "pruned": {"top1": 0.9}}))
    study.write("d/failure.json", "{}")
    (study.path / "e").mkdir()
    (study.path / "e/record.json").write_bytes(b"\xff\xfe\x00")
    (study.path / "f/record.json").mkdir(parents=True)

    found = read_study(study.path)

    reasons = {str(problem.path): problem.reason for problem in found.problems}
    assert len(found.finished) == 1
    assert list(reasons) == [f"{name}/record.json" for name in "abc"] + [
        "d/failure.json",
        "e/record.json",
        "f/record.json",
    ]
    assert "was it cut off?" in reasons["a/record.json"]
    assert reasons["b/record.json"] == "schema 2; this version of prunelab reads schema 1"
    assert reasons["c/record.json"] == "pruned.top5 is missing"
    assert reasons["d/failure.json"] == "schema is missing"
    assert reasons["e/record.json"] == "not a text file"
    assert reasons["f/record.json"] == "cannot be read (Is a directory)"


def test_a_folder_that_is_no_study_is_an_error_with_what_to_do(study: StudyFolder) -> None:
    study.write("0a0a/record.json", "{}")
    (study.path / "empty").mkdir()

    for folder, message in (
        (study.path / "nowhere", "does not exist. Give the folder of a study"),
        (study.path / "0a0a/record.json", "is not a folder. Give the folder of a study"),
        (
            study.path / "empty",
            "contains no runs. To start one: prunelab study=empty method=l1 budget.flops=0.5",
        ),
        (study.path / "0a0a", f"is a single run. Give the folder of its study: {study.path}"),
        (study.path.parent, f"contains studies, not runs. Give one of them: {study.path}"),
    ):
        with pytest.raises(UserError) as caught:
            read_study(folder)
        assert message in str(caught.value)
