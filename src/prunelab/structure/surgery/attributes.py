"""Plain attributes of a module: numbers, strings, entries of tuples and lists of integers ("sizes[1]"), and of dicts
and pairs by their key ("axes_lengths[heads]")."""

from __future__ import annotations

from typing import Any

from torch import nn

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


def integers(module: nn.Module) -> dict[str, int]:
    """All of them by name, without True and False."""
    found: dict[str, int] = {}
    for name, value in vars(module).items():
        if type(value) is int:
            found[name] = value
        elif type(value) in (tuple, list) and value and all(type(entry) is int for entry in value):
            found.update((f"{name}[{place}]", entry) for place, entry in enumerate(value))
        else:
            entries = _by_key(value).items()
            found.update((f"{name}[{key}]", entry) for key, entry in entries if type(entry) is int)
    return found


def _by_key(value: Any) -> dict[str, Any]:
    """The entries of a dict, or of a tuple or list of (key, value), if all keys are names; else {}."""
    if type(value) in (tuple, list) and all(type(pair) is tuple and len(pair) == 2 for pair in value):
        value = dict(value) if all(type(key) is str for key, _ in value) else {}
    named = type(value) is dict and all(type(key) is str and key.isidentifier() for key in value)
    return value if named else {}


def plain_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes that are numbers, strings, or tuples and lists of them, without those that every module has."""
    return {
        name: list(value) if type(value) is list else value
        for name, value in vars(module).items()
        if name not in _OF_EVERY_MODULE and _is_plain(value)
    }


def _is_plain(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_plain(entry) for entry in value)
    return value is None or type(value) in (bool, int, float, str)


def set_integer(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute, or one entry of a tuple, list or dict (as a new one: modules may share it)."""
    attribute, _, place = name.partition("[")
    if place:
        before, place = getattr(module, attribute), place.rstrip("]")
        if place.isdigit():
            value = type(before)(
                value if number == int(place) else entry for number, entry in enumerate(before)
            )
        else:
            named = {**_by_key(before), place: value}
            value = named if type(before) is dict else type(before)(named.items())
    setattr(module, attribute, value)
