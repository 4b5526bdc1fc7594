"""Tells apart runs that share a table row's name but not its settings (five epochs of recovery, and ten)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from prunelab.records.key import PUBLISHED_DATA, WITHOUT_EFFECT, unsaid
from prunelab.records.schema import Record

IGNORED = (*WITHOUT_EFFECT, "baseline.path")
"""A baseline is known by its accuracy, which the report checks, not by where its file lies."""

SHOWN = 3
"""At most this many differing settings are written out."""


def settings_of(record: Record) -> dict[str, str]:
    """The settings that can change the result, but for the seeds: dotted name -> value as text."""
    settings = dict(_flattened(record.config))
    published = settings.get("data._target_") in PUBLISHED_DATA
    ignored = (*IGNORED, *unsaid(record.config), *(["data.root"] if published else []))
    return {name: value for name, value in settings.items() if _matters(name, ignored)}


def telling_settings(records: Sequence[Record]) -> list[str]:
    """For each record the settings in which it differs from others of the same row (``"recipe.epochs=5"``).

    The text is empty for all if they differ in nothing.
    """
    settings = [settings_of(record) for record in records]
    names = sorted({name for each in settings for name in each})
    telling = [name for name in names if len({each.get(name) for each in settings}) > 1]
    return [_written(each, telling) for each in settings]


def _matters(name: str, ignored: Iterable[str]) -> bool:
    is_seed = name.rpartition(".")[2] == "seed"
    return not is_seed and not any(name == each or name.startswith(f"{each}.") for each in ignored)


def _written(settings: Mapping[str, str], names: Sequence[str]) -> str:
    parts = [f"{name}={settings.get(name, '(not set)')}" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        parts.append(f"and {len(names) - SHOWN} more")
    return ", ".join(parts)


def _flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flattened(item, f"{name}.{key}" if name else str(key))
    else:
        yield name, str(value)
