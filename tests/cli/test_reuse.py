"""For a finished run whose code has changed a note is printed; sweep.redo=true repeats it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from prunelab.records import Record
from prunelab.records.own_digest import with_digest

pytestmark = pytest.mark.slow

Command = Callable[..., Any]
SMALL = (
    "method=l1", "budget.flops=0.5", "baseline.training.epochs=1", "recipe=none", "trainer=cpu", "study=mine",
    "fast_dev_run=1", "method.criterion._target_=mine_again.Mine",
)  # fmt: skip
SOURCE = """from prunelab.methods import L1Norm


class Mine(L1Norm):
    pass
"""


@pytest.fixture
def module(prunelab: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module with a criterion, in the folder that the command runs in."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "mine_again.py"
    path.write_text(SOURCE)
    yield path
    sys.modules.pop("mine_again", None)


def records(folder: Path) -> list[Record]:
    return [
        Record.from_json(path.read_text()) for path in (folder / "outputs" / "mine").glob("*/record.json")
    ]


def test_an_edited_criterion_is_noted_and_run_again(prunelab: Command, module: Path, tmp_path: Path) -> None:
    first = prunelab(*SMALL)
    assert first.code == 0
    assert "l1 (criterion: mine_again.Mine) on resnet20" in first.out
    (before,) = records(tmp_path)
    assert before.classes["method.criterion"] == "mine_again.Mine"
    assert before.method == "l1 (criterion: mine_again.Mine)"
    assert set(before.contents) == {"method.criterion._target_"}

    module.write_text(f"# A comment\n{SOURCE}")
    assert "note:" not in prunelab(*SMALL).out

    module.write_text(SOURCE.replace("pass", "power = 3"))
    sys.modules.pop("mine_again")
    again = prunelab(*SMALL)
    assert "already there" in again.out
    (note,) = [line for line in again.out.splitlines() if "note:" in line]
    assert "the source of mine_again.Mine has changed; sweep.redo=true runs it again." in note
    swept = prunelab("-m", *SMALL, "budget.flops=0.5")
    assert "the source of mine_again.Mine has changed" in swept.out

    redone = prunelab(*SMALL, "sweep.redo=true")
    assert redone.code == 0
    assert "finished." in redone.out
    (now,) = records(tmp_path)
    assert now.contents != before.contents
    (earlier,) = (tmp_path / "outputs" / "mine" / now.key / "earlier").glob("*/record.json")
    assert json.loads(earlier.read_text())["contents"] == dict(before.contents)
    assert "note:" not in prunelab(*SMALL).out

    swept = prunelab("-m", *SMALL, "sweep.redo=true", "budget.flops=0.5,0.6")
    assert "2 finished, 0 already there, 0 failed." in swept.out


def test_another_version_and_another_default_are_noted(
    prunelab: Command, module: Path, tmp_path: Path
) -> None:
    prunelab(*SMALL)
    (path,) = (tmp_path / "outputs" / "mine").glob("*/record.json")
    values = json.loads(path.read_text())
    values["versions"]["prunelab"] = "0.0.1"
    values["config"]["method"]["min_keep"] = 0.2  # as if this had been the default
    path.write_text(json.dumps(with_digest(values)))

    said = prunelab(*SMALL).out

    assert "prunelab 0.0.1 has become" in said
    assert "the default of method.min_keep has changed from 0.2 to 0.1" in said
