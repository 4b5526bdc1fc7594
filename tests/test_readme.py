"""The README's Python is run as it stands."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_example_runs(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("readme")
    monkeypatch.setitem(sys.modules, "readme", module)
    exec(compile(BLOCKS[number], f"README.md, example {number + 1}", "exec"), module.__dict__)


def test_linked_files_exist() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", TEXT)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_demo_table_is_the_record() -> None:
    """The table shown is the one that the demo wrote."""
    shown = TEXT.split("<!-- demo table: experiments/demo/table.md -->")[1].split(
        "<!-- end of demo table -->"
    )[0]
    assert shown.strip() in (ROOT / "experiments/demo/table.md").read_text()
    assert shown.strip()
