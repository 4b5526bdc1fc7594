"""Plain attributes of a module: numbers, strings, and entries of tuples and lists of integers ("sizes[1]")."""

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
    return found


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
    """Set an attribute, or one entry of a tuple or list (as a new one: modules may share it)."""
    attribute, _, place = name.partition("[")
    if place:
        entries = list(getattr(module, attribute))
        entries[int(place.rstrip("]"))] = value
        value = type(getattr(module, attribute))(entries)
    setattr(module, attribute, value)
