"""search.csv: written, read again, and damaged."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from prunelab.records import RecordError
from prunelab.records.evaluations import Evaluation, evaluations_text, parse_evaluations
from prunelab.tracking.search_file import SearchFile

FOUND = (Evaluation(1, 0.5, 0.25, 0.25), Evaluation(2, 0.375, 0.5, 0.5))


def test_what_is_written_is_read_again() -> None:
    text = evaluations_text({"search 1": FOUND[:1], "search": FOUND})
    assert text.splitlines()[:2] == ["phase,evaluation,kept,score,best", "search 1,1,0.5,0.25,0.25"]
    assert parse_evaluations(text) == {"search 1": FOUND[:1], "search": FOUND}


@pytest.mark.parametrize(
    "text", ["", "phase,epoch\n", "phase,evaluation,kept,score,best\nsearch,1,0.5\n", 'phase,"evaluation\n']
)
def test_a_truncated_or_other_table_is_an_error(text: str) -> None:
    with pytest.raises(RecordError):
        parse_evaluations(text)


def test_the_evaluations_of_a_phase_replace_those_of_the_same_phase(tmp_path: Path) -> None:
    file = SearchFile(tmp_path / "search.csv")
    file.write("search 1", FOUND)
    file.write("search", FOUND[:1])
    file.write("search", FOUND)
    assert parse_evaluations(file.path.read_text()) == {"search 1": FOUND, "search": FOUND}


def test_a_damaged_file_is_set_aside_and_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    file = SearchFile(tmp_path / "search.csv")
    file.path.write_text("garbage")
    file.write("search", FOUND)
    assert parse_evaluations(file.path.read_text()) == {"search": FOUND}
    assert "search.csv are damaged" in caplog.text and len(list(tmp_path.iterdir())) == 2
