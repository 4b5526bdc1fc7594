from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from prunelab.report import aggregate, print_report, read_study

if TYPE_CHECKING:
    from conftest import StudyFolder


def printed(study: StudyFolder, width: int) -> str:
    output = io.StringIO()
    print_report(aggregate(read_study(study.path)), Console(file=output, width=width))
    return output.getvalue()


@pytest.fixture
def large_study(study: StudyFolder) -> StudyFolder:
    for method in ("l1", "bn_gamma", "entropy"):
        for levels in (["filter"], ["filter", "stage"]):
            for keep in (0.7, 0.5):
                for seed in (0, 1):
                    key = f"{method}-{len(levels)}-{keep}-{seed}"
                    study.finished(method, seed, keep=keep, levels=levels, key=key, top1=keep + seed / 10)
    return study


@pytest.mark.parametrize("width", [80, 120, 200])
def test_nothing_is_cut_at_usual_widths(large_study: StudyFolder, width: int) -> None:
    text = printed(large_study, width)

    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for expected in ("baseline", "bn_gamma", "filter+stage", "70 % FLOPs", "75.00 ± 7.07", "40.00 (50.0 %)"):
        assert expected in text


def test_a_wider_terminal_shows_more_columns(large_study: StudyFolder) -> None:
    narrow, usual, wide = (printed(large_study, width) for width in (80, 120, 300))

    assert "Columns that do not fit: Top-1, % baseline" in narrow
    assert "speed-up)  " not in narrow.split("Columns that do not fit")[0]
    assert "20.0 (2.00x)" in usual
    assert "Columns that do not fit" not in wide
    assert "40.00 ± 0.00 (50.0 %)" in wide


def test_rows_are_grouped_by_budget(large_study: StudyFolder) -> None:
    rows = [line for line in printed(large_study, 120).splitlines() if "% FLOPs" in line]

    assert [("70 %" in row, "50 %" in row) for row in rows] == [(True, False)] * 6 + [(False, True)] * 6


def test_missing_runs_are_listed(study: StudyFolder) -> None:
    study.finished("l1", 0, hardware={"cpu": "slow"})
    study.finished("l2", 1, hardware={"cpu": "fast"})
    study.failed("fpgm", 0, error="[bold]no memory[/bold]")
    study.failed("l1", 1, error="killed")
    study.write("0a0a/config.yaml", "seed: 0\n")
    study.write(
        "1b1b/config.yaml",
        "names: {method: l1, model: lenet5, data: digits}\nlevels: [filter]\nseed: 3\n"
        "budget: {flops: 0.5, params: null}\n",
    )
    study.write("bad/record.json", "{")

    lines = printed(study, 300).splitlines()

    expected = """\
failed: fpgm, filter, global, 50 % FLOPs, one_shot, seed 0: [bold]no memory[/bold] (fpgm-0.5-0/failure.json)
failed: l1, filter, global, 50 % FLOPs, one_shot, seed 1: killed (l1-0.5-1/failure.json)
missing: l2, filter, global, 50 % FLOPs, one_shot has no record for seed 0, unlike other rows
timed on 2 machines, so compare speed-ups rather than times: cpu fast; cpu slow
unfinished: 0a0a is running or was interrupted
unfinished: l1, filter, 50 % FLOPs, lenet5 on digits, seed 3 (1b1b) is running or was interrupted"""
    assert [line for line in expected.splitlines() if line not in lines] == []
    assert any(line.startswith("left out: bad/record.json: not valid JSON") for line in lines)


def test_methods_of_different_baselines_are_called_not_comparable(study: StudyFolder) -> None:
    study.finished("l1", baseline=study.network(0.90, 80, (2.0, 40.0)))
    study.finished("l2", baseline=study.network(0.95, 80, (2.0, 40.0)))

    expected = "not comparable: the runs of seed 0 started from baselines of different accuracy"
    assert expected in printed(study, 200).splitlines()


def test_a_study_without_a_finished_run_is_printed(study: StudyFolder) -> None:
    study.failed("l1")

    assert printed(study, 200).splitlines() == [
        "resnet20 on digits",
        "failed: l1, filter, global, 50 % FLOPs, one_shot, seed 0: out of memory (l1-0.5-0/failure.json)",
        "A failed run is listed until it succeeds or its folder is deleted.",
        "",
    ]
