"""The checklist for studies that differ in one property."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from prunelab.report import aggregate, read_study, to_markdown
from prunelab.report.checklist import of_report, of_table

if TYPE_CHECKING:
    from conftest import StudyFolder

CONFIG = {"data": {"val_fraction": 0.1, "flip": True, "root": "here"}, "recipe": {"epochs": 5}}
CLEAN = {"revision": "abc", "dirty": False}


def full_study(study: StudyFolder, **changes: Any) -> None:
    """Three methods at five budgets with three seeds; ``changes`` are of one run."""
    for method in ("l1", "random", "fpgm"):
        for keep in (0.9, 0.7, 0.5, 0.3, 0.1):
            for seed in (0, 1, 2):
                one = changes if (method, keep, seed) == ("fpgm", 0.5, 1) else {}
                values = {"config": CONFIG, "git": CLEAN, **one}
                study.finished(method, seed, keep=keep, top1=0.94 - 0.1 * (keep < 0.2), **values)


def met(study: StudyFolder) -> dict[str, bool]:
    (table,) = aggregate(read_study(study.path)).tables
    return {item.demand: item.met for item in of_table(table)}


def test_a_study_that_lacks_only_published_points(study: StudyFolder) -> None:
    full_study(study)

    assert [demand for demand, is_met in met(study).items() if not is_met] == [
        "Published results beside the measured ones"
    ]


@pytest.mark.parametrize(
    ("changes", "unmet"),
    [
        ({"config": CONFIG | {"data": {"val_fraction": 0.2, "flip": True}}}, "Identical data, splits and"),
        ({"config": CONFIG | {"data": {"val_fraction": 0.1, "flip": False}}}, "Identical data, splits and"),
        ({"config": CONFIG | {"recipe": {"epochs": 6}}}, "Identical recovery"),
        ({"git": {"revision": "abc", "dirty": True}}, "Code and settings of every run"),
        ({"hardware": {}}, "Hardware and libraries"),
    ],
)
def test_one_run_that_differs_is_found(study: StudyFolder, changes: dict[str, Any], unmet: str) -> None:
    full_study(study, **changes)

    assert [demand for demand, is_met in met(study).items() if not is_met and demand.startswith(unmet)]


def test_a_record_from_before_a_setting_existed_has_its_default(study: StudyFolder) -> None:
    older: dict[str, Any] = {"_target_": "prunelab.recipes.OneShot", "training": None}
    for distillation, same in ((0.0, True), (0.9, False)):
        study.finished("l1", config={"recipe": older})
        study.finished("fpgm", config={"recipe": older | {"distillation": distillation}})
        assert met(study)["Identical recovery"] is same


def test_a_run_from_another_baseline(study: StudyFolder) -> None:
    full_study(study, baseline=study.network(0.90, 80_000_000, (2.0, 40.0)))

    assert not met(study)["Baseline stated, and the same for all methods"]


def test_a_small_study_meets_few_items(study: StudyFolder) -> None:
    study.finished("fpgm", top1=0.88, config=CONFIG)
    study.finished("l1", keep=0.7, top1=0.94, config=CONFIG)

    report = aggregate(read_study(study.path))
    page = to_markdown(report)

    assert not of_report(report)[0].met
    for line in (
        "- not met: at least 5 budgets for each method: 1 for each of 2 methods",
        "- not met: at least 3 seeds for every row: 1",
        "- not met: mean and standard deviation: none for 2 rows with one seed",
        "- not met: random pruning at every budget: random at 0 of 2 budgets",
        "- not met: magnitude pruning at every budget: l1 or l2 at 1 of 2 budgets",
        "- met: budgets down to a substantial loss of accuracy (5 points): largest loss 7.00 points",
        "- met: identical recovery: the same 1 setting in all 2 runs",
        "- not met: at least 3 pairs of model and data set in the study: 1: resnet20 on digits",
    ):
        assert line in page.splitlines()
