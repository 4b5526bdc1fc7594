from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from prunelab.report import aggregate, read_study
from prunelab.report.curves import Epoch

if TYPE_CHECKING:
    from conftest import StudyFolder

CURVES = "phase,epoch,learning_rate,train/loss,val/top1\nround 1,1,0.1,2.5,\nrecovery,1,0.05,nan,0.75\n"


def test_curves_are_in_the_folder_of_the_record(study: StudyFolder) -> None:
    study.finished("l1")
    study.finished("l2")
    study.write("l1-0.5-0/curves.csv", CURVES)

    with_curves, without = read_study(study.path).finished

    assert with_curves.curves == (
        Epoch("round 1", 1, {"learning_rate": 0.1, "train/loss": 2.5}),
        Epoch("recovery", 1, {"learning_rate": 0.05, "val/top1": 0.75}),
    )
    assert without.curves is None


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", CURVES[:-12], CURVES.replace("0.75", "high"), "\0"])
def test_a_run_whose_curves_are_damaged_counts(study: StudyFolder, text: str) -> None:
    study.finished("l1")
    study.write("l1-0.5-0/curves.csv", text)

    report = aggregate(read_study(study.path))

    (problem,) = report.problems
    assert problem.path == Path("l1-0.5-0/curves.csv")
    assert "its curves are not shown" in problem.reason
    assert len(report.tables[0].rows) == 1


def test_records_in_the_folder_of_a_report_have_its_name(study: StudyFolder) -> None:
    study.finished("l1")
    records = study.path.parent / "cifar" / "records"
    records.parent.mkdir()
    study.path.rename(records)

    assert read_study(records).name == "cifar"


def test_a_run_whose_search_is_damaged_counts(study: StudyFolder) -> None:
    study.finished("l1")
    study.write("l1-0.5-0/search.csv", "phase,evaluation,kept,score,best\nsearch,1,0.5\n")

    report = aggregate(read_study(study.path))

    (problem,) = report.problems
    assert problem.path == Path("l1-0.5-0/search.csv")
    assert "its search is not shown: line 2" in problem.reason
