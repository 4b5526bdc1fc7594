"""The tensors in nested inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError

_PLAIN = (bool, int, float, complex, str, bytes, Enum, torch.device, torch.dtype, type(None), type)


def tensors_in(value: Any) -> list[Tensor]:
    """Every tensor in ``value``, once, in order: in lists, tuples, mappings, sets, data classes and other objects.

    Raises UserError for an object without accessible content (a generator, a function): its tensors would be missed.
    """
    found: list[Tensor] = []
    _collect(value, found, set())
    return found


def _collect(value: Any, found: list[Tensor], seen: set[int]) -> None:
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append(value)
        return
    for part in _parts(value):
        _collect(part, found, seen)


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.values(), *_attributes(value)]
    if isinstance(value, list | tuple | Set):
        return [*value, *_attributes(value)]
    if (callable(value) and not _attributes(value)) or not (hasattr(value, "__dict__") or _slots(value)):
        raise UserError(
            f"the network returns a {type(value).__name__}, in which prunelab cannot find tensors. Wrap the network so "
            "that it returns tensors in lists, dicts or data classes."
        )
    return _attributes(value)


def _attributes(value: Any) -> list[Any]:
    """The attributes of an object (a subclass of list or dict may have tensors there too)."""
    named = [getattr(value, name) for name in _slots(value) if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).values(), *named]


def _slots(value: Any) -> list[str]:
    slots: list[str] = []
    for kind in type(value).__mro__:
        own = kind.__dict__.get("__slots__", ())
        slots.extend([own] if isinstance(own, str) else own)
    return [name for name in slots if name not in ("__dict__", "__weakref__")]
