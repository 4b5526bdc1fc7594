"""The reference of keys contains every key of conf/, with its default as written and its comment."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from prunelab.cli.config import configure, dotted

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]

EXAMPLE = """\
# What the file is for,
# in two lines:
#   prunelab data=example
root: ${oc.env:DATA,data}    # folder with a | in its name
mean: [0.1, 0.2]             # first line
                             # and second line
plain: 1
nested:                      # of a group
  deep: "a # b"              # quoted
  flow: {a: 1}               # a mapping
last: ${plain}               # the same <value>
"""


def example(tmp_path: Path, keys: ModuleType) -> str:
    (tmp_path / "data").mkdir()
    (tmp_path / "config.yaml").write_text("seed: 0    # of everything\n")
    (tmp_path / "data/example.yaml").write_text(EXAMPLE)
    return keys.page(tmp_path)


def test_rows_by_hand(tmp_path: Path, keys: ModuleType) -> None:
    text = example(tmp_path, keys)
    assert [line for line in text.splitlines() if line.startswith("| `")] == [
        "| `seed` | `0` | of everything |",
        "| `data.root` | `${oc.env:DATA,data}` | folder with a \\| in its name |",
        "| `data.mean` | `[0.1, 0.2]` | first line and second line |",
        "| `data.plain` | `1` |  |",
        "| `data.nested` |  | of a group |",
        '| `data.nested.deep` | `"a # b"` | quoted |',
        "| `data.nested.flow` | `{a: 1}` | a mapping |",
        "| `data.last` | value of `plain` | the same &lt;value> |",
    ]
    assert "What the file is for,\nin two lines:" in text and "    prunelab data=example" in text


def test_every_file_and_key_is_there(keys: ModuleType, known_keys: set[str]) -> None:
    text = keys.page(ROOT / "conf")
    for group in ("data", "model", "method", "recipe", "baseline", "trainer", "logger"):
        for path in (ROOT / "conf" / group).glob("*.yaml"):
            assert f"### {group}={path.stem}\n" in text
    missing = {
        name
        for name in dotted(configure(["method=taylor", "budget.flops=0.5"]))
        if not name.startswith(("names", "method.budget", "experiment", "debug")) and not _is_private(name)
    }
    missing -= {*known_keys, *_groups()}
    assert missing == set()


def test_main_keys_have_a_comment(keys: ModuleType) -> None:
    (main,) = [choice for choice in keys.choices(ROOT / "conf") if choice.path == "config"]
    assert [key.name for key in main.keys if not key.comment] == []


def _is_private(name: str) -> bool:
    return any(part.startswith("_") for part in name.split("."))


def _groups() -> set[str]:
    return {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
