"""Imports go downwards only, in the order of the table in CONTRIBUTING.md, and there is no cycle."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from itertools import takewhile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src/prunelab"
PATHS = {
    ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
LIBRARIES = {"numpy", "scipy", "torch"}


def imported(text: str) -> set[str]:
    """The names in all imports of a module: in functions and for type checkers too."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def module_of(name: str) -> str | None:
    """The module of prunelab that an import of ``name`` reads: a module itself, or the one that defines the name."""
    return next((each for each in (name, name.rpartition(".")[0]) if each in PATHS), None)


def package_of(module: str) -> str:
    """The part below ``prunelab``: ``prunelab.data.split`` -> ``data``."""
    return module.split(".")[1]


def rows(text: str) -> list[set[str]]:
    """The packages in each row of the table, from the top."""
    table = takewhile(
        lambda line: line.startswith("|"), text.split("| Package | Content |\n")[1].splitlines()
    )
    cells = [line.split("|")[1] for line in table]
    return [{name.removesuffix(".py") for name in re.findall("`([^`]+)`", cell)} for cell in cells[1:]]


NAMES = {module: imported(path.read_text()) for module, path in PATHS.items()}
IMPORTS = {module: {module_of(name) for name in names} - {None, module} for module, names in NAMES.items()}
ROWS = rows((ROOT / "CONTRIBUTING.md").read_text())


def upward(level: dict[str, int], imports: dict[str, set[str]]) -> list[str]:
    """The imports of another package that is not in a lower row."""
    return [
        f"{module} imports {other}"
        for module, others in imports.items()
        for other in others
        if "prunelab" not in (module, other)
        and package_of(module) != package_of(other)
        and level[package_of(module)] >= level[package_of(other)]
    ]


def test_the_table_has_every_package() -> None:
    found = {package_of(module) for module in PATHS if module not in ("prunelab", "prunelab.__main__")}
    assert sorted(name for row in ROWS for name in row) == sorted(found)


def test_imports_go_downwards() -> None:
    level = {name: number for number, row in enumerate(ROWS) for name in row} | {"__main__": -1}
    assert upward(level, IMPORTS) == []


def test_no_module_imports_itself_through_others() -> None:
    tuple(TopologicalSorter(IMPORTS).static_order())  # raises CycleError, which names the modules


@pytest.mark.parametrize("package", ["records", "report"])
def test_records_and_reports_need_no_torch(package: str) -> None:
    readers = {module for module in PATHS if package_of(f"{module}.") == package}
    assert readers
    below = set(readers)
    while more := {other for module in below for other in IMPORTS[module]} - below:
        below |= more
    assert [module for module in below if {name.split(".")[0] for name in NAMES[module]} & {"torch"}] == []


def test_structure_needs_torch_numpy_and_scipy_only() -> None:
    from sys import stdlib_module_names

    needed = {
        name.split(".")[0]
        for module, names in NAMES.items()
        if package_of(f"{module}.") == "structure"
        for name in names
    }
    assert needed - stdlib_module_names - {"prunelab"} == LIBRARIES


def test_an_arrow_upward_and_a_cycle_are_found() -> None:
    imports = {"prunelab.b.x": {"prunelab.a.y"}, "prunelab.a.y": {"prunelab.b.x"}}
    assert upward({"a": 0, "b": 1}, imports) == ["prunelab.b.x imports prunelab.a.y"]
    with pytest.raises(CycleError):
        tuple(TopologicalSorter(imports).static_order())
