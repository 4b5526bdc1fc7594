from __future__ import annotations

from typing import TYPE_CHECKING

from prunelab.report import aggregate, read_study

if TYPE_CHECKING:
    from conftest import StudyFolder


def test_a_copied_run_counts_once_and_the_original_is_kept(study: StudyFolder) -> None:
    study.finished("l1", seed=0, folder="a copy", top1=0.1)
    study.finished("l1", seed=0, top1=0.9)

    report = aggregate(read_study(study.path))

    (row,) = report.tables[0].rows
    (problem,) = report.problems
    assert row.statistics["top1"].mean == 0.9
    assert str(problem.path) == "a copy/record.json"
    assert problem.reason == "has the same key as l1-0.5-0/record.json: a run must not be counted twice"


def test_another_task_under_the_same_name_is_left_out(study: StudyFolder) -> None:
    study.finished("l1")
    study.finished("l2")
    study.finished("fpgm", baseline=study.network(0.7, 80_100_000, (2.0, 40.0)))

    report = aggregate(read_study(study.path))

    (problem,) = report.problems
    assert sorted(row.key.method for row in report.tables[0].rows) == ["l1", "l2"]
    assert str(problem.path) == "fpgm-0.5-0/record.json"
    assert (
        "has 80100000 FLOPs and 801000 parameters, that of the other runs 80000000 and 800000"
        in problem.reason
    )
    assert "another data set or network with the same name" in problem.reason


def test_of_two_runs_of_the_same_settings_and_seed_the_newer_counts(study: StudyFolder) -> None:
    study.finished("l1", key="b", top1=0.9, finished="2026-11-24T12:00:00+00:00")
    study.finished("l1", key="a", top1=0.8, finished="2026-11-24T13:00:00+00:00")

    report = aggregate(read_study(study.path))

    (row,) = report.tables[0].rows
    (problem,) = report.problems
    assert row.statistics["top1"].mean == 0.8
    assert str(problem.path) == "b/record.json"
    assert problem.reason == "has the same settings and seed as a/record.json, which is newer"


def test_other_models_and_data_sets_get_tables_of_their_own(study: StudyFolder) -> None:
    study.finished("l1", model="vgg16_bn", key="1")
    study.finished("l1", data="cifar10", key="2")
    study.finished("l1", key="3")

    report = aggregate(read_study(study.path))

    assert [(table.model, table.data) for table in report.tables] == [
        ("resnet20", "cifar10"),
        ("resnet20", "digits"),
        ("vgg16_bn", "digits"),
    ]
    assert report.problems == ()
