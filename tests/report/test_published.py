"""Published points with measured rows, in every output."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from prunelab.errors import UserError
from prunelab.report import (
    Published,
    aggregate,
    find_published,
    print_report,
    read_published,
    read_study,
    to_csv,
    to_latex,
    to_markdown,
)
from prunelab.report.published import beside

if TYPE_CHECKING:
    from conftest import StudyFolder

HEADER = (
    "row,method,family,reference,flops_g,pruned_percent,top1,printed_delta,computed_delta,computed_flops_g,"
    "computed_pruned_percent,flops_kept,baseline_flops_g,baseline_top1,flag,note\n"
)
FULL = ",L-1,importance,1,0.081,0,93.00,0.00,0.00,0.081,0.0,1.0,0.081,93.00,,\n"
HALF = "l1_50,L-1,importance,1,0.0400,51,92.50,-0.40,-0.50,0.0400,50.6,0.49,0.081,93.00,delta,printed -0.40\n"
MACS = "l1_75,L-1,importance,1,0.0100,88,90.00,-3.00,-3.00,0.0200,75.3,0.25,0.081,93.00,unit,counts MACs\n"
OTHER = "other,DMCP,search,2,4.0,50,76.0,-0.15,-0.15,4.0,50,0.5,8.17,76.15,,\n"


def written(folder: Path, *lines: str) -> Published:
    path = folder / "published.csv"
    path.write_text(HEADER + "".join(lines))
    return read_published(path)


def test_the_point_of_the_same_method_and_budget_is_shown_in_a_row(
    study: StudyFolder, tmp_path: Path
) -> None:
    for keep in (0.5, 0.7):
        study.finished("l1", keep=keep)
    study.finished("l2")

    (table,) = aggregate(read_study(study.path), written(tmp_path, FULL, HALF, MACS, OTHER)).tables

    beside = {
        (row.key.method, row.key.keep): row.published and (row.published.top1, row.published.flag)
        for row in table.rows
    }
    assert beside == {("l1", 0.5): (0.925, "delta"), ("l1", 0.7): None, ("l2", 0.5): None}
    assert [point.flag for point in table.only_published] == ["unit"]
    (macs,) = table.only_published
    assert (macs.flops, macs.printed_flops) == (20_000_000, 10_000_000)
    assert macs.flops_fraction == pytest.approx(20 / 81)
    assert macs.change == pytest.approx(-0.03)


def test_every_output_shows_what_was_printed_and_what_follows(study: StudyFolder, tmp_path: Path) -> None:
    study.finished("l1")
    report = aggregate(read_study(study.path), written(tmp_path, FULL, HALF, MACS))

    page = to_markdown(report)
    assert "| 92.50 | -0.50 (-0.40 printed) | 40.00 (49.4 %) |" in page
    assert "Published figures without a comparable run:" in page
    assert "| L-1 | 93.00 | 90.00 | -3.00 | 20.00 (24.7 %) |" in page
    assert "- published: L-1 at 24.7 % of its FLOPs: counts MACs" in page

    beside, alone = csv.DictReader(io.StringIO(to_csv(report)))
    assert (beside["published_change"], beside["published_change_printed"]) == ("-0.005", "-0.004")
    assert (alone["status"], alone["method"], alone["published_flag"]) == ("published", "L-1", "unit")

    assert r"92.50 & $-$0.50 (-0.40 printed)" in to_latex(report)

    screen = io.StringIO()
    print_report(report, Console(file=screen, width=300))
    assert "1 published points have no comparable run" in screen.getvalue()
    assert "-0.50 (-0.40 printed)" in screen.getvalue()


def test_a_point_is_known_by_the_name_of_its_choice_too(tmp_path: Path) -> None:
    file = tmp_path / "published.csv"
    file.write_text(
        "method,choice,top1,baseline_top1,computed_flops_g,baseline_flops_g\nFPGM,fpgm_soft,75,76,4,8\n"
    )
    points = read_published(file).points
    assert beside("fpgm_soft", 0.5, points) == beside("fpgm", 0.5, points) == points[0]
    assert beside("sfp", 0.5, points) is None


def test_of_points_of_one_method_that_of_the_row_that_ran_is_shown(
    study: StudyFolder, tmp_path: Path
) -> None:
    file = tmp_path / "published.csv"
    head = "row,method,choice,top1,baseline_top1,computed_flops_g,baseline_flops_g\n"
    file.write_text(head + "plus_50,L1Plus,l1,92,93,0.04,0.08\nl1_50,L1,l1,91,93,0.0401,0.08\n")
    for recipe, names in (("one", {}), ("two", {"row": "plus_50"}), ("three", {"row": "l1_50"})):
        study.finished("l1", recipe=recipe, folder=recipe, key=recipe, config={"names": names})

    (table,) = aggregate(read_study(study.path), read_published(file)).tables

    assert {row.key.recipe: row.published and row.published.row for row in table.rows} == {
        "one": "l1_50",
        "two": "plus_50",
        "three": "l1_50",
    }


def test_points_of_another_network_are_said_to_be(study: StudyFolder, tmp_path: Path) -> None:
    study.finished("l1")

    report = aggregate(read_study(study.path), written(tmp_path, OTHER))

    (problem,) = report.problems
    assert report.tables[0].published == ()
    assert problem.reason == (
        "its full networks have 8.17 GFLOPs, unlike the network of any table: points of another network"
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (HALF.replace("92.50", "high"), "line 2: top1 should be a number, found 'high'"),
        (HALF.replace("92.50", ""), "line 2: top1 should be a number above 0, found 'nothing'"),
        ("l1_50,L-1,importance\n", "line 2: top1 should be a number above 0, found 'nothing'"),
        (HALF.replace("0.0400,50.6", "nan,50.6"), "line 2: computed_flops_g should be a number, found 'nan'"),
    ],
)
def test_a_bad_line_is_left_out(tmp_path: Path, line: str, reason: str) -> None:
    published = written(tmp_path, line, MACS)

    assert [problem.reason for problem in published.problems] == [reason]
    assert [point.flag for point in published.points] == ["unit"]


def test_a_file_of_something_else_is_a_users_mistake(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'method'"):
        read_published(path)
    with pytest.raises(UserError, match="cannot be read"):
        read_published(tmp_path / "nowhere.csv")


def test_the_file_is_found_next_to_the_records(tmp_path: Path) -> None:
    records = tmp_path / "table2" / "records"
    records.mkdir(parents=True)
    assert find_published(records) is None
    (tmp_path / "table2" / "published.csv").touch()
    assert find_published(records) == tmp_path / "table2" / "published.csv"
    assert find_published(tmp_path / "table2") == tmp_path / "table2" / "published.csv"
    (tmp_path / "published.csv").touch()
    assert find_published(tmp_path / "other") is None
