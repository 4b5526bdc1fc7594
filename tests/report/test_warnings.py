"""Warnings about rows and times: chance level, load by other processes; and the best epoch."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from prunelab.report import aggregate, print_report, read_study, to_csv, to_latex, to_markdown, to_page

if TYPE_CHECKING:
    from conftest import StudyFolder

TIMINGS = {"baseline_s": 0, "score_s": 1.5, "recovery_s": 30.0, "evaluate_s": 2.0, "total_s": 34.0}
TEST_SET = {"images": 10_000, "largest_class": 0.1}


def markdown(study: StudyFolder) -> str:
    return to_markdown(aggregate(read_study(study.path)))


def best_epoch(epoch: int, top1: float) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "validation": {"top1": 0.9, "top5": None},
        "test": {"top1": top1, "top5": None},
    }


def test_times_under_load_are_marked_in_every_output(study: StudyFolder) -> None:
    study.finished("l1", timings={**TIMINGS, "other_load": 2.34})
    study.finished("fpgm", timings={**TIMINGS, "other_load": 0.1})
    report = aggregate(read_study(study.path))
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=300))

    text = to_markdown(report)

    loaded, alone = (
        next(line for line in text.splitlines() if f"| {name} |" in line) for name in ("l1", "fpgm")
    )
    assert loaded.count("(2.00x) \\*") == 1 and loaded.count("(1.25x) \\*") == 1
    assert "*" not in alone
    for output in (text.replace("\\*", "*"), screen.getvalue(), to_page(report, "x"), to_latex(report)):
        assert "* timed while other processes used up to 2.3 cores: the times in 1 of 2 rows" in output
        assert "20.0 (2.00x) *" in output
    assert ",2.34," in to_csv(report)


@pytest.mark.parametrize(
    "timings", [TIMINGS, {**TIMINGS, "other_load": None}, {**TIMINGS, "other_load": 0.2}]
)
def test_other_times_are_not_marked(study: StudyFolder, timings: dict[str, Any]) -> None:
    study.finished("l1", timings=timings)

    assert "*" not in markdown(study)


def test_deviations_of_times_are_shown_in_every_output(study: StudyFolder) -> None:
    study.finished("l1", 0, pruned=study.network(0.9, 40_000_000, (1.0, 19.0)))
    study.finished("l1", 1, pruned=study.network(0.9, 40_000_000, (3.0, 21.0)))
    report = aggregate(read_study(study.path))
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=160))

    latex = to_latex(report).replace("$\\pm$", "±")

    for output in (to_markdown(report), to_page(report, "x"), latex, screen.getvalue()):
        assert "20.0 ± 1.4 (2.01x)" in output
        assert "2.00 ± 1.41 (1.33x)" in output


def test_a_row_at_chance_level_is_on_no_front(study: StudyFolder) -> None:
    study.finished("l1", keep=0.5, top1=0.9, test_set=TEST_SET)
    study.finished("random", keep=0.1, top1=0.105, test_set=TEST_SET)
    study.finished("fpgm", keep=0.2, top1=0.15, test_set=TEST_SET)

    rows = {row.key.method: set(row.front) for row in aggregate(read_study(study.path)).tables[0].rows}

    assert rows["random"] == set()
    assert "flops" in rows["fpgm"]
    assert (
        "chance level: on no front, because not better than guessing: random, filter, global, 10 % FLOPs"
        in (markdown(study))
    )


def test_a_baseline_at_chance_level_is_a_warning(study: StudyFolder) -> None:
    study.finished("l1", 0, test_set=TEST_SET)
    study.finished("l1", 1, baseline=study.network(0.1, 80_000_000, (2.0, 40.0)), test_set=TEST_SET)

    assert "chance level: the full network of seed 1 is not better than guessing" in markdown(study)


def test_older_records_have_no_chance_level(study: StudyFolder) -> None:
    study.finished("l1", top1=0.1)

    text = markdown(study)

    assert "chance" not in text
    assert "| F P T |" in text


def test_the_best_epoch_is_shown_next_to_the_last(study: StudyFolder) -> None:
    study.finished("l1", 0, top1=0.90, best_epoch=best_epoch(7, 0.91))
    study.finished("l1", 1, top1=0.90, best_epoch=best_epoch(9, 0.93))
    study.finished("fpgm", 0, top1=0.80)

    text = markdown(study)

    header, _, *lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    column = header.index(" Top-1, % best epoch ")
    cells = {line[1].strip(): line[column].strip() for line in lines}
    assert cells == {"baseline": "", "l1": "92.00 ± 1.41", "fpgm": "-"}
    assert "Best epoch: the epoch of the recovery with the highest top-1 on the validation images." in text


def test_without_best_epochs_there_is_no_column(study: StudyFolder) -> None:
    study.finished("l1")

    assert "best epoch" not in markdown(study).lower()
