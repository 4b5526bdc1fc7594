"""The code on the pages runs, the commands can be composed, and the linked files exist."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType

from prunelab.cli.config import configure

from . import pages

pytestmark = pytest.mark.slow

NAMES = [str(page.relative_to(pages.ROOT)) for page in pages.PAGES]
SCRIPTS = tomllib.loads((pages.ROOT / "pyproject.toml").read_text())["project"]["scripts"]


@pytest.mark.parametrize("name", NAMES)
def test_python_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page run in their order, in one module; a block with a title is a file in the same folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)
    written = [block for block in pages.blocks(pages.ROOT / name) if block.title]
    for block in written:
        (tmp_path / block.title).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / block.title).write_text(block.text)
    for number, block in enumerate(pages.blocks(pages.ROOT / name), start=1):
        if block.language == "python" and not block.title:
            monkeypatch.setattr(sys, "argv", [name])
            exec(compile(block.text, f"{name}, block {number}", "exec"), module.__dict__)
    for block in written:
        if block.title.endswith(".py"):
            monkeypatch.delitem(sys.modules, block.title.removesuffix(".py"), raising=False)


COMMANDS = [(name, words) for name in NAMES for words in pages.commands(pages.ROOT / name)]


def test_pages_have_commands() -> None:
    assert len([words for _, words in COMMANDS if words[0] == "prunelab"]) > 20


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=lambda value: value if isinstance(value, str) else " ".join(value)
)
def test_command_is_understood(
    name: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Choices and keys of ``prunelab`` are composed without a run; flags and targets of other commands exist."""
    monkeypatch.chdir(tmp_path)
    program, *rest = words
    if program == "prunelab":
        _compose(name, rest)
    elif program == "make":
        targets = set(re.findall(r"(?m)^([a-z-]+):", (pages.ROOT / "Makefile").read_text()))
        assert {word for word in rest if "=" not in word} <= targets
    elif program in SCRIPTS:
        flags = {word for word in rest if word.startswith("--")}
        assert flags <= _flags(program)
    elif "/" in program:
        assert (pages.ROOT / program).is_file()
    else:
        assert program in ("pip", "pre-commit", "git", "cd", "pytest", "python")


def _compose(name: str, words: list[str]) -> None:
    overrides = [word for word in words if not word.startswith("-")]
    if "--config-dir" in words:
        folder = Path(words[words.index("--config-dir") + 1])
        overrides.remove(str(folder))
        for block in pages.blocks(pages.ROOT / name):
            if block.title.startswith(f"{folder}/"):
                Path(block.title).parent.mkdir(parents=True, exist_ok=True)
                Path(block.title).write_text(block.text)
        overrides.append(f"hydra.searchpath=[file://{folder.resolve()}]")
    configure([_first_value(override) for override in OverridesParser.create().parse_overrides(overrides)])


def _first_value(override: Override) -> str:
    """The override, with the first of several values in a sweep."""
    line = override.input_line
    if override.value_type in (ValueType.CHOICE_SWEEP, ValueType.SIMPLE_CHOICE_SWEEP):
        value = next(iter(override.sweep_string_iterator()))
        return f"{override.get_key_element()}={value}"
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return f"{override.get_key_element()}=l1"
    if override.is_sweep_override():
        return f"{override.get_key_element()}=0.5"
    assert line is not None
    return line


def _flags(program: str) -> set[str]:
    code = f"import sys; from {SCRIPTS[program].replace(':', ' import ')}; sys.argv = ['x', '--help']; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(re.findall(r"--[a-z][\w-]*", done.stdout))


@pytest.mark.parametrize("name", NAMES)
def test_settings_in_the_text_exist(name: str, known_keys: set[str]) -> None:
    assert pages.inline_settings(pages.ROOT / name) - known_keys == set()


@pytest.mark.parametrize("name", NAMES)
def test_linked_files_exist(name: str) -> None:
    page = pages.ROOT / name
    targets = re.findall(r"\]\((?!https?://)([^)#]+)(?:#[^)]*)?\)", page.read_text())
    generated = {pages.ROOT / "docs/reference/keys.md", pages.ROOT / "docs/reference/api.md"}
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert [target for target in missing if (page.parent / target).resolve() not in generated] == []


def test_the_readme_is_short() -> None:
    assert len((pages.ROOT / "README.md").read_text().splitlines()) <= 150


def test_demo_table_is_the_record() -> None:
    """The table on the page is that of the demo."""
    text = (pages.ROOT / "docs/tutorial.md").read_text()
    shown = text.split("<!-- demo table: experiments/demo/table.md -->")[1].split(
        "<!-- end of demo table -->"
    )[0]
    assert shown.strip() in (pages.ROOT / "experiments/demo/table.md").read_text()
    assert shown.strip()
