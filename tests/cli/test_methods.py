"""prunelab-methods: the table of methods, on the screen and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from prunelab.cli.methods import BEGIN, END, main, markdown, methods, written_into
from prunelab.errors import UserError
from prunelab.methods.about import About

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow  # all methods are created once


@pytest.fixture(scope="module")
def found() -> dict[str, About]:
    return methods()


def test_the_readme_names_every_method_once() -> None:
    text = (ROOT / "README.md").read_text()
    table = text.partition("\n## Methods\n")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    named = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(named) == sorted(file.stem for file in (ROOT / "conf" / "method").glob("*.yaml"))


def test_the_page_of_methods_is_current(found: dict[str, About]) -> None:
    """prunelab-methods --write docs/reference/methods.md"""
    text = (ROOT / "docs/reference/methods.md").read_text()
    assert written_into(text, found) == text


def test_every_choice_has_a_row_with_its_source(found: dict[str, About]) -> None:
    assert set(found) == {file.stem for file in (ROOT / "conf" / "method").glob("*.yaml")}
    assert [name for name, about in found.items() if not about.origin.paper] == ["random"]
    assert [name for name, about in found.items() if not about.origin.url.startswith("https://")] == [
        "random"
    ]
    assert all(about.reads and about.cost and about.levels for about in found.values())


def test_the_description_of_rows(found: dict[str, About]) -> None:
    assert found["pfa"].levels == ("filter", "stage")
    assert found["l1"].cost == "no data"
    assert found["taylor"].cost == "one forward and backward pass"
    assert found["ssl"].cost == "a training of the full network (328 epochs)"
    assert found["fpgm_soft"].origin == found["fpgm"].origin
    row = next(line for line in markdown(found).splitlines() if line.startswith("| `l1` "))
    assert "[Li et al., Pruning Filters, ICLR 2017](https://arxiv.org/abs/1608.08710)" in row


def test_a_file_gets_the_table_between_its_marks(
    found: dict[str, About],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("prunelab.cli.methods.methods", lambda: found)
    file = tmp_path / "methods.md"
    file.write_text(f"above\n{BEGIN}old\n{END}\nbelow\n")
    assert main(["--write", str(file)]) == 0
    assert file.read_text() == f"above\n{BEGIN}{markdown(found)}{END}\nbelow\n"
    file.write_text("no marks\n")
    assert main(["--write", str(file)]) == 1
    assert "must contain the lines" in capsys.readouterr().err


def test_the_screen_has_every_method(
    found: dict[str, About], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunelab.cli.methods.methods", lambda: found)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in found)


def test_a_file_without_marks_is_not_changed(found: dict[str, About]) -> None:
    with pytest.raises(UserError, match="around the table"):
        written_into(f"{BEGIN} and no end", found)


def test_a_narrow_terminal_breaks_no_word(
    found: dict[str, About], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunelab.cli.methods.methods", lambda: found)
    for columns in (80, 200):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([]) == 0
        shown = capsys.readouterr().out
        assert "…" not in shown and max(map(len, shown.splitlines())) <= columns
        assert " ".join(found["taylor"].cost.split()) in " ".join(shown.split())
