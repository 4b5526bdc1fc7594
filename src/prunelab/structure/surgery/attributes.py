"""Integer attributes of a module, and entries of its tuples and lists of integers ("sizes[1]")."""

from __future__ import annotations

from typing import Any

from torch import nn


def integers(module: nn.Module) -> dict[str, int]:
    """All of them by name, without True and False."""
    found: dict[str, int] = {}
    for name, value in vars(module).items():
        if type(value) is int:
            found[name] = value
        elif type(value) in (tuple, list) and value and all(type(entry) is int for entry in value):
            found.update((f"{name}[{place}]", entry) for place, entry in enumerate(value))
    return found


def set_integer(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute, or one entry of a tuple or list (as a new one: modules may share it)."""
    attribute, _, place = name.partition("[")
    if place:
        entries = list(getattr(module, attribute))
        entries[int(place.rstrip("]"))] = value
        value = type(getattr(module, attribute))(entries)
    setattr(module, attribute, value)
