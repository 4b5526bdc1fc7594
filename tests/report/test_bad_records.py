"""An unusable record is left out and named in every output; the others are shown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from prunelab.report import (
    Report,
    aggregate,
    print_report,
    read_study,
    to_csv,
    to_latex,
    to_markdown,
    to_page,
)

if TYPE_CHECKING:
    from conftest import StudyFolder


def truncated(study: StudyFolder) -> None:
    study.write("bad/record.json", json.dumps(study.finished("l2", folder="exclude"))[:300])


def of_another_version(study: StudyFolder) -> None:
    study.finished("fpgm", folder="bad", schema=2)


def of_another_data_set(study: StudyFolder) -> None:
    study.finished("fpgm", folder="bad", baseline=study.network(0.7, 90_000_000, (2.0, 40.0)))


def duplicate(study: StudyFolder) -> None:
    study.finished("l1", folder="bad", top1=0.1)


def of_something_else(study: StudyFolder) -> None:
    study.write("bad/record.json", '["</script>", 1]')


def without_a_field(study: StudyFolder) -> None:
    values = study.finished("fpgm", folder="bad")
    del values["pruned"]["params"]
    study.write("bad/record.json", json.dumps(values))


BAD: dict[Callable[[StudyFolder], None], str] = {
    truncated: "was it cut off?",
    of_another_version: "schema 2; this version of prunelab reads schema 1",
    of_another_data_set: "another data set or network with the same name",
    duplicate: "a run must not be counted twice",
    of_something_else: "should be a JSON object",
    without_a_field: "pruned.params is missing",
}


def on_screen(report: Report) -> str:
    screen = io.StringIO()
    print_report(report, Console(file=screen, width=500))
    return screen.getvalue()


def in_csv(report: Report) -> str:
    lines = list(csv.DictReader(io.StringIO(to_csv(report))))
    return " ".join(f"{line['path']}: {line['error']}" for line in lines if line["status"] == "left_out")


def on_the_page(report: Report) -> str:
    page = to_page(report, "outputs/demo")
    content: dict[str, Any] = json.loads(
        page.partition('type="application/json">')[2].partition("</script>")[0]
    )
    assert [row["method"] for row in content["tables"][0]["rows"] if row["method"] == "l1"] == ["l1"]
    return " ".join(content["leftOut"])


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_every_output_names_it_and_shows_the_others(
    study: StudyFolder, make: Callable[[StudyFolder], None]
) -> None:
    study.finished("l1")
    study.finished("bn_gamma")
    make(study)

    report = aggregate(read_study(study.path))

    for write in (on_screen, to_markdown, in_csv, on_the_page):
        text = write(report).replace("\\", "")
        assert "bad/record.json: " in text, write
        assert BAD[make] in text, write
    rows = [row for row in report.tables[0].rows if row.key.method == "l1"]
    assert [row.statistics["top1"].mean for row in rows] == [0.9]
    assert to_latex(report).count("    l1 &") == 1


def test_a_study_of_only_bad_records_has_every_output(study: StudyFolder) -> None:
    study.write("bad/record.json", "{")

    report = aggregate(read_study(study.path))

    for write in (on_screen, to_markdown, in_csv):
        assert "was it cut off?" in write(report)
    assert "tabular" not in to_latex(report)
    assert "was it cut off?" in to_page(report, "outputs/demo")
