"""Python source files of dotted names, found and read without importing them.

Keys and reports need the file that defines a class, and the defaults of its constructor. Importing the class would
import torch, which takes seconds, and would run code; so the files are parsed instead.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

OWN = "prunelab"
"""The top-level package of prunelab's own classes."""


def is_own(dotted_name: str) -> bool:
    """Whether a class or module belongs to prunelab."""
    return dotted_name.partition(".")[0] == OWN


def find_module(name: str) -> Path | None:
    """The source file of the module ``name``, or None if there is no readable one.

    The current folder is searched first, as it is when a run imports a user module.
    """
    parts = name.split(".")
    spec = _top_level(parts[0])
    for depth in range(1, len(parts)):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[: depth + 1]), list(spec.submodule_search_locations))
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    return Path(spec.origin)


def _top_level(name: str) -> ModuleSpec | None:
    spec = PathFinder.find_spec(name, [str(Path.cwd())])
    if spec is not None and spec.has_location:
        return spec
    try:
        return importlib.util.find_spec(name)  # imports nothing for a name without dots
    except (ImportError, ValueError):
        return None


def parse_module(name: str) -> ast.Module | None:
    """The syntax tree of a module, or None if it has no source that can be parsed."""
    path = find_module(name)
    if path is None or path.suffix != ".py":
        return None
    return _parsed(path.read_bytes())


@cache
def _parsed(source: bytes) -> ast.Module | None:
    try:
        return ast.parse(source)
    except (SyntaxError, ValueError):
        return None


def statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """The statements of a module, also those inside ``if`` and ``try``."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        statement = waiting.pop(0)
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            waiting = [*statement.body, *statement.orelse, *waiting]
        if isinstance(statement, ast.Try):
            waiting = [
                *statement.finalbody,
                *(each for one in statement.handlers for each in one.body),
                *waiting,
            ]


def imported_module(statement: ast.ImportFrom, module: str) -> str | None:
    """The absolute name of the module that a ``from ... import`` inside ``module`` names."""
    if not statement.level:
        return statement.module
    path = find_module(module)
    is_package = path is not None and path.name == "__init__.py"
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + (1 if is_package else 0)]
    return ".".join([*base, *([statement.module] if statement.module else [])]) or None


def definition(module: str, name: str) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The module and the syntax tree that define ``module.name``, through any number of ``from ... import``.

    None if the definition cannot be found without running the code.
    """
    seen: set[tuple[str, str]] = set()
    while (module, name) not in seen:
        seen.add((module, name))
        tree = parse_module(module)
        if tree is None:
            return None
        found = _bound(tree, module, name)
        if found is None or isinstance(found, ast.ClassDef | ast.FunctionDef):
            return None if found is None else (module, found)
        module, name = found
    return None


def _bound(
    tree: ast.Module, module: str, name: str
) -> ast.ClassDef | ast.FunctionDef | tuple[str, str] | None:
    """The value that the last binding statement assigns to ``name``: a definition, or a name in another module."""
    found: ast.ClassDef | ast.FunctionDef | tuple[str, str] | None = None
    for statement in statements(tree):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef) and statement.name == name:
            found = statement
        elif isinstance(statement, ast.ImportFrom):
            source = imported_module(statement, module)
            for alias in statement.names:
                if (alias.asname or alias.name) == name and source is not None:
                    found = (source, alias.name)
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Name):
            names = [target.id for target in statement.targets if isinstance(target, ast.Name)]
            found = (module, statement.value.id) if name in names else found
    return found


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python itself or to an installed distribution, which have versions."""
    parts = path.parts
    standard_library = Path(ast.__file__).parent
    return "site-packages" in parts or "dist-packages" in parts or standard_library in path.parents


def is_builtin(name: str) -> bool:
    """Whether a top-level module is part of Python."""
    return name in sys.stdlib_module_names
