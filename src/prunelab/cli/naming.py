"""The names of a run in records and tables: the choices of its configuration, and replaced classes."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from prunelab.records.classes import class_name, classes

NAMED = ("method", "model", "data", "recipe")

PARTS = ("Training", "Budget", "Target")
"""Classes that only hold settings, which are shown as settings."""


def run_names(config: Mapping[str, Any], runtime: Any) -> dict[str, str]:
    """The names of the method, model, data and recipe of the resolved ``config``.

    A name is that of the chosen file, or, where one file serves many networks or data sets (``model=timm``,
    ``data=image_folder``), the value of its ``name``. A class or network that a setting has replaced is added in
    brackets: ``l1 (criterion: mine.Mine)``. A table therefore never shows a figure under the name of another method.
    A run of an experiment with one file for each row also has the name of its ``row``.

    Args:
        runtime: ``hydra.runtime`` of the composed configuration: its choices and their folders.
    """
    choices = runtime.choices
    folders = tuple(
        f"{each.schema}://{each.path}" for each in runtime.config_sources if each.schema in ("file", "pkg")
    )
    names = {group: _name(group, str(choices[group]), config[group], folders) for group in NAMED}
    row = _row(choices)
    return names if row is None else {**names, "row": row}


def _row(choices: Mapping[str, Any]) -> str | None:
    """The name of a file in a folder of conf/experiment: ``experiment=table2/fpgm_42``, or ``experiment=table2`` with
    ``experiment/table2=fpgm_42``."""
    experiment = str(choices.get("experiment"))
    folder, _, name = experiment.rpartition("/")
    row = name if folder else choices.get(f"experiment/{experiment}")
    return None if row is None else str(row)


def _name(group: str, choice: str, settings: Any, folders: tuple[str, ...]) -> str:
    if not isinstance(settings, Mapping):
        return choice
    declared = _declared(folders, group, choice)
    if declared is None:
        return choice
    name = choice
    if declared.get("name") == "???":
        name = str(settings.get("name"))
    elif group == "data":
        name = str(settings.get("name", choice))
    found = [*_replaced_classes(declared, settings), *_replaced_network(group, declared, settings)]
    return f"{name} ({', '.join(found)})" if found else name


def _replaced_classes(declared: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """The classes of the settings that are not those of the file, with their keys: ``criterion: mine.Mine``."""
    before, now = (
        {place: class_name(each) for place, each in classes(one).items()} for one in (declared, settings)
    )
    return [
        f"{place}: {name}" if place else name
        for place, name in sorted(now.items())
        if before.get(place) != name and not (place not in before and name in PARTS)
    ]


def _replaced_network(group: str, declared: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    if group != "model" or declared.get("name") == "???":
        return []
    return [
        f"{key}: {settings[key]}"
        for key in ("name", "module")
        if settings.get(key) is not None and settings[key] != declared.get(key)
    ]


@cache
def _declared(folders: tuple[str, ...], group: str, choice: str) -> dict[str, Any] | None:
    """The content of the file ``group/choice.yaml`` and of its defaults; None if it is not found.

    References to other values are not resolved, which is sufficient for the names of classes.
    """
    name = f"{group}/{choice}.yaml".lstrip("/")
    file = next((path for folder in folders if (path := _file(folder, name)) is not None), None)
    if file is None:
        return None
    own = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    parts = own.pop("defaults", [])
    merged: dict[str, Any] = {}
    for part in [*parts, *(["_self_"] if "_self_" not in parts else [])]:
        if part == "_self_":
            merged = _merged(merged, own)
        elif isinstance(part, str):
            base = part.partition("@")[0]
            where, _, name = (base[1:] if base.startswith("/") else f"{group}/{base}").rpartition("/")
            merged = _merged(merged, _declared(folders, where, name) or {})
    return merged


def _file(folder: str, name: str) -> Traversable | None:
    schema, _, place = folder.partition("://")
    root: Traversable = files(place) if schema == "pkg" else Path(place)
    file = root.joinpath(name)
    return file if file.is_file() else None


def _merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(one)
    for name, value in other.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _merged(merged[name], value) if both else value
    return merged
