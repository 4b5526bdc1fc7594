"""The committed records are those of this version, and their tables are the committed ones."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from prunelab.cli.report import main
from prunelab.records import Record, run_key
from prunelab.records.key import KEY_SCHEMA
from prunelab.records.renamed import upgraded

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
STUDIES = ("cifar10_resnet20", "demo", "demo/all_methods", "demo/after_survey", "demo/searches", "deployment")
RECORDS = sorted(EXPERIMENTS.rglob("record.json"))


@pytest.mark.parametrize("study", STUDIES)
def test_the_tables_follow_from_the_records(study: str, tmp_path: Path) -> None:
    """The same rows in the same order, and the same value in each column of the committed table."""
    assert main([str(EXPERIMENTS / study / "records"), "--out", str(tmp_path)]) == 0
    made, committed = (_rows(folder / "table.csv") for folder in (tmp_path, EXPERIMENTS / study))
    assert [{name: row[name] for name in committed[0]} for row in made] == committed


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as lines:
        return list(csv.DictReader(lines))


def test_each_record_is_found_by_its_key_and_in_present_words() -> None:
    assert len(RECORDS) >= 98
    for path in RECORDS:
        values = json.loads(path.read_text())
        assert values["config"] == upgraded(values["config"]), path
        record = Record.from_dict(values)
        assert record.key == path.parent.name == run_key(record.config, record.contents), path
        assert record.key_schema == KEY_SCHEMA
