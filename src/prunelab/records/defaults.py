"""Defaults of constructors, read from source files; a key leaves out the settings that have them.

``inspect.signature`` gives the same values (a test compares the two for every class of conf/), but needs an import of
the class, and so of torch.
"""

from __future__ import annotations

import ast
import inspect
import operator
import sys
from collections.abc import Mapping
from functools import cache
from typing import Any

from prunelab.records import sources

UNKNOWN = object()
"""Represents a default that is not a plain value. No setting equals it, so the setting is always part of a key."""

_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Pow: operator.pow}
_EMPTY: Mapping[str, Any] = {"dict": {}, "list": [], "tuple": []}


def defaults_of(target: str) -> Mapping[str, Any]:
    """The default of each optional parameter of the class or function ``target``, if it is a plain value.

    Args:
        target: the import path, such as ``prunelab.methods.L1Norm``.

    Returns:
        Numbers, text, None, booleans, and lists and dictionaries of these; tuples become lists. Empty if the source of
        ``target`` cannot be found.
    """
    return _of_own(target) if sources.is_own(target) else _read(target)


def parameters_of(target: str) -> tuple[str, ...]:
    """The names of all parameters of a class of prunelab, with and without defaults."""
    module, _, name = target.rpartition(".")
    found = sources.definition(module, name)
    assert found is not None and isinstance(found[1], ast.ClassDef), target
    return tuple(name for name in _of_class(found[1], found[0]) if name != "self")


@cache
def _of_own(target: str) -> Mapping[str, Any]:
    """Cached for prunelab only: the source files of users may change during a process."""
    return _read(target)


def _read(target: str) -> Mapping[str, Any]:
    module, _, name = target.rpartition(".")
    found = sources.definition(module, name) if module else None
    if found is None:
        return _of_imported(module, name)
    where, node = found
    known = _of_function(node, where) if isinstance(node, ast.FunctionDef) else _of_class(node, where)
    return {key: value for key, value in known.items() if value is not UNKNOWN}


def defaults_of_network(name: str, module: str | None) -> Mapping[str, Any]:
    """The defaults of the function that registers the network ``name``, if it is prunelab's or in a user module."""
    where = _own_network(name) if module is None or sources.definition(module, name) is None else module
    return defaults_of(f"{where}.{name}") if where else {}


@cache
def _own_network(name: str) -> str | None:
    package = sources.find_module("prunelab.models")
    assert package is not None
    for path in sorted(package.parent.glob("*.py")):
        if f"def {name}(" in path.read_text(encoding="utf-8"):
            return f"prunelab.models.{path.stem}"
    return None


def _of_imported(module: str, name: str) -> Mapping[str, Any]:
    """For a class without a source file: its signature, if it has been imported already."""
    made = getattr(sys.modules.get(module), name, None)
    if not callable(made):
        return {}
    try:
        parameters = inspect.signature(made).parameters.values()
    except (TypeError, ValueError):
        return {}
    plain = (type(None), bool, int, float, str)
    return {each.name: each.default for each in parameters if isinstance(each.default, plain)}


def _of_class(node: ast.ClassDef, module: str) -> dict[str, Any]:
    """The defaults of a class. One that passes ``**settings`` to its base has the parameters of both."""
    constructor = next(
        (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None
    )
    if constructor is not None:
        own = _of_function(constructor, module)
        return {**(_of_bases(node, module) if constructor.args.kwarg else {}), **own}
    inherited = _of_bases(node, module)
    return {**inherited, **_of_fields(node, module)} if _is_dataclass(node) else inherited


def _of_bases(node: ast.ClassDef, module: str) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for base in reversed(node.bases):
        name = base.value if isinstance(base, ast.Subscript) else base
        found = sources.definition(module, name.id) if isinstance(name, ast.Name) else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            known |= _of_class(found[1], found[0])
    return known


def _of_fields(node: ast.ClassDef, module: str) -> dict[str, Any]:
    known = {}
    for each in node.body:
        if not isinstance(each, ast.AnnAssign) or "ClassVar" in ast.dump(each.annotation):
            continue
        if isinstance(each.target, ast.Name):
            known[each.target.id] = _value(each.value, module)
    return known


def _of_function(node: ast.FunctionDef, module: str) -> dict[str, Any]:
    positional = [*node.args.posonlyargs, *node.args.args]
    missing: list[ast.expr | None] = [None] * (len(positional) - len(node.args.defaults))
    pairs = [*zip(positional, [*missing, *node.args.defaults], strict=True)]
    pairs += [*zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)]
    return {parameter.arg: _value(default, module) for parameter, default in pairs}


def _is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.dump(each) for each in node.decorator_list)


def _value(node: ast.expr | None, module: str) -> Any:
    """The plain value of an expression: a literal, a constant of the module, arithmetic on these; else UNKNOWN."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, type(None) | bool | int | float | str) else UNKNOWN
    if isinstance(node, ast.Tuple | ast.List):
        values = [_value(each, module) for each in node.elts]
        return UNKNOWN if UNKNOWN in values else values
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _value(node.operand, module)
        return -value if isinstance(value, int | float) else UNKNOWN
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        sides = [_value(each, module) for each in (node.left, node.right)]
        numbers = all(isinstance(each, int | float) for each in sides)
        return _OPERATORS[type(node.op)](*sides) if numbers else UNKNOWN
    if isinstance(node, ast.Name):
        return _constant(node.id, module)
    if isinstance(node, ast.Call):
        return _field_default(node, module)
    return UNKNOWN


def _field_default(node: ast.Call, module: str) -> Any:
    """The default in ``dataclasses.field(default=...)`` or ``field(default_factory=dict)``."""
    for keyword in node.keywords:
        if keyword.arg == "default":
            return _value(keyword.value, module)
        if keyword.arg == "default_factory" and isinstance(keyword.value, ast.Name):
            return _EMPTY.get(keyword.value.id, UNKNOWN)
    return UNKNOWN


def _constant(name: str, module: str, depth: int = 5) -> Any:
    """The value of a constant, in the module or in the one from which it is imported."""
    tree = sources.parse_module(module)
    for statement in [] if tree is None or not depth else sources.statements(tree):
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            if any(isinstance(each, ast.Name) and each.id == name for each in targets):
                return _value(statement.value, module)
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                source = sources.imported_module(statement, module)
                if (alias.asname or alias.name) == name and source is not None:
                    return _constant(alias.name, source, depth - 1)
    return UNKNOWN
