"""Changes since a finished run that its key does not contain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prunelab.records.contents import BY_CONTENT
from prunelab.records.key import NOT_SETTINGS, OF_A_RUN, WITHOUT_EFFECT, canonical
from prunelab.records.schema import Record
from prunelab.version import __version__

REDO = "sweep.redo=true runs it again."


def changes_since(record: Record, config: Mapping[str, Any], contents: Mapping[str, str]) -> str | None:
    """One line about the changes since the finished run ``record``; None if there are none.

    The sources of user classes, the version of prunelab, and defaults are compared. A changed default is that of a
    setting that the key leaves out because it had the default of its class, which is another one now.

    Args:
        config: the resolved configuration of the present command.
        contents: the present result of ``content_digests`` for it.
    """
    found = [*_sources(record, config, contents), *_defaults(record, config), *_version(record)]
    return f"since that run {' and '.join(found)}; {REDO}" if found else None


def _sources(record: Record, config: Mapping[str, Any], contents: Mapping[str, str]) -> Iterator[str]:
    changed = {
        _value(config, place)
        for place, now in contents.items()
        if (then := record.contents.get(place)) is not None and then != now
    }
    if changed:
        yield f"the source of {', '.join(sorted(changed))} has changed"


def _defaults(record: Record, config: Mapping[str, Any]) -> Iterator[str]:
    then, now = dict(_flattened(record.config)), dict(_flattened(config))
    for name, value in now.items():
        if name in then and then[name] != value:
            yield f"the default of {name} has changed from {then[name]} to {value}"


def _version(record: Record) -> Iterator[str]:
    then, now = record.versions.get("prunelab"), __version__
    if then is not None and then != now:
        yield f"prunelab {then} has become {now}"


def _flattened(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for group in OF_A_RUN:
        yield from _leaves(config.get(group), group)


def _leaves(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, each in value.items():
            inside = f"{place}.{name}"
            if name not in NOT_SETTINGS and inside not in (*WITHOUT_EFFECT, *BY_CONTENT):
                yield from _leaves(each, inside)
    elif not isinstance(value, list) or not any(isinstance(each, Mapping) for each in value):
        yield place, canonical(place, value)


def _value(config: Mapping[str, Any], place: str) -> str:
    """The class, module or file that a setting names."""
    node: Any = config
    for part in place.replace("[", ".").replace("]", "").split("."):
        node = node[int(part)] if isinstance(node, list) else node[part]
    return str(node)
