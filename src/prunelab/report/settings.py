"""Settings that distinguish runs with the same row name (such as five or ten epochs of recovery)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prunelab.records.classes import TARGET, class_name, present_target
from prunelab.records.contents import PUBLISHED_DATA
from prunelab.records.defaults import defaults_of
from prunelab.records.key import NETWORK_SETTINGS, OF_A_RUN, WITHOUT_EFFECT, canonical, factorises, quantises
from prunelab.records.schema import Record

IGNORED = (*WITHOUT_EFFECT, "baseline.path")
"""A baseline is identified by its accuracy, which the report checks, not by the path of its file."""

SHOWN = 3
"""At most this many differing settings are written out."""

NOT_SET = "(not set)"


def settings_of(record: Record) -> dict[str, str]:
    """The settings that can change the result, except the seeds: dotted name -> value as text.

    Classes appear under their stable names, and equal values in the same form.
    """
    config = {name: record.config[name] for name in OF_A_RUN if name in record.config}
    if not factorises(record.config):
        config.pop("lowrank", None)  # older records have none
    if not quantises(record.config):
        config.pop("precision", None)
    settings = dict(_flattened(config))
    published = (
        class_name(settings.get(f"data.{TARGET}", "")) in PUBLISHED_DATA
        and "data.root" not in record.contents  # a part of ImageNet is identified by its images
    )
    ignored = (*IGNORED, *(["data.root"] if published else []))
    return {name: value for name, value in settings.items() if _matters(name, ignored)}


def telling_settings(records: Sequence[Record]) -> list[str]:
    """For each record the settings in which it differs from others of the same row (``"recipe.epochs=5"``).

    The text is empty for all if they differ in nothing.
    """
    complete = complete_settings(records)
    names = complete[0] if complete else {}
    telling = [name for name in names if len({each[name] for each in complete}) > 1]
    return [_written(each, telling) for each in complete]


def complete_settings(records: Sequence[Record]) -> list[dict[str, str]]:
    """``settings_of`` each record, with the same names in all, sorted.

    A setting that is missing in an older record has the default of its class.
    """
    settings = [settings_of(record) for record in records]
    names = sorted({name for each in settings for name in each})
    return [
        {name: each[name] if name in each else _default(record, name) for name in names}
        for record, each in zip(records, settings, strict=True)
    ]


def _default(record: Record, name: str) -> str:
    """The default of a setting in the class of its group."""
    place, _, key = name.rpartition(".")
    group: Any = record.config
    for part in place.split(".") if place else ():
        group = group.get(part) if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping):
        return NOT_SET
    target = group.get(TARGET) or (NETWORK_SETTINGS if place == "model" else None)
    known = (
        {"fast_dev_run": None} if not place else defaults_of(present_target(str(target))) if target else {}
    )
    return str(canonical(name, known[key])) if key in known else NOT_SET


def _matters(name: str, ignored: Sequence[str]) -> bool:
    is_seed = name.rpartition(".")[2] == "seed"
    return not is_seed and not any(name == each or name.startswith(f"{each}.") for each in ignored)


def _written(settings: Mapping[str, str], names: Sequence[str]) -> str:
    parts = [f"{name}={settings[name]}" for name in names[:SHOWN]]
    if len(names) > SHOWN:
        parts.append(f"and {len(names) - SHOWN} more")
    return ", ".join(parts)


def _flattened(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flattened(item, f"{name}.{key}" if name else str(key))
    elif name.endswith(TARGET):
        yield name, class_name(str(value))
    elif isinstance(value, list):
        yield name, str(_listed(name, value))
    else:
        yield name, str(canonical(name, value))


def _listed(name: str, values: list[Any]) -> list[Any]:
    """A list with its classes under their stable names."""
    if not any(isinstance(each, Mapping) for each in values):
        return list(canonical(name, values))
    return [
        {key: class_name(str(item)) if key == TARGET else item for key, item in each.items()}
        if isinstance(each, Mapping)
        else each
        for each in values
    ]
