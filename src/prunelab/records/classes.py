"""Stable names of classes, which stay the same when a class moves to another module."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from prunelab.records import sources

TARGET = "_target_"

RENAMED_CLASSES: Mapping[str, str] = {
    "ImportancePruning": "ImportanceMethod",  # the former name is now the name of a Lightning callback
}
"""Former name of a class of prunelab -> present name. Add a line when a class that conf/ names is renamed; a class that
moves needs none."""


def class_name(target: str) -> str:
    """The name of the class that ``target`` imports, wherever it is defined.

    For a class of prunelab its present name without the module (``L1Norm``), for any other the whole import path.
    """
    if not sources.is_own(target):
        return target
    name = target.rpartition(".")[2]
    while name in RENAMED_CLASSES:
        name = RENAMED_CLASSES[name]
    return name


def key_word(target: str) -> str:
    """The name of a class in keys: the first one that the class had, so that a new name changes no key."""
    name = class_name(target)
    first = {present: former for former, present in RENAMED_CLASSES.items()}
    while name in first:
        name = first[name]
    return name


@cache
def present_target(target: str) -> str:
    """The present import path of a class of prunelab, given its path in any version.

    ``target`` itself if it still exists, if it is not a class of prunelab, or if the class no longer exists.
    """
    module, _, name = target.rpartition(".")
    is_present = name not in RENAMED_CLASSES and sources.definition(module, name) is not None
    if not sources.is_own(target) or is_present:
        return target
    name = class_name(target)
    for package in _packages():
        if sources.definition(package, name) is not None:
            return f"{package}.{name}"
    return target


def classes(config: Mapping[str, Any]) -> dict[str, str]:
    """The import path of every class that a configuration names, by its key: ``method.criterion``."""
    return dict(_targets(config, ""))


def _targets(value: Any, place: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    if isinstance(value, Mapping):
        if isinstance(value.get(TARGET), str):
            found.append((place, value[TARGET]))
        for name, each in value.items():
            found += _targets(each, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            found += _targets(each, f"{place}[{number}]")
    return found


@cache
def _packages() -> tuple[str, ...]:
    """The packages of prunelab, outer ones first."""
    root = sources.find_module(sources.OWN)
    assert root is not None
    folders = sorted(
        (path.parent for path in root.parent.rglob("__init__.py")), key=lambda path: (len(path.parts), path)
    )
    return tuple(_dotted(folder, root.parent) for folder in folders)


def _dotted(folder: Path, root: Path) -> str:
    return ".".join([sources.OWN, *folder.relative_to(root).parts])
