"""The tensors in nested inputs and outputs, and the outputs that a user has chosen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Set
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from prunelab.errors import UserError

_PLAIN = (bool, int, float, complex, str, bytes, Enum, torch.device, torch.dtype, type(None), type)

Outputs = str | int | Collection[str | int] | Callable[[Any], Any]
"""Chosen outputs of a network: names (of entries or attributes), indices, or a function of what it returns."""


def check_outputs(outputs: Any) -> None:
    """Raises UserError for anything but ``Outputs`` or None."""
    several = isinstance(outputs, list | tuple | Set) and len(outputs) > 0
    for item in outputs if several else (outputs,):
        single = isinstance(item, str | int) and not isinstance(item, bool)
        if not (single or (not several and (outputs is None or callable(outputs)))):
            raise UserError(
                f"outputs={outputs!r} does not choose outputs: give a name, an index, several of them, or a function "
                "of what the network returns."
            )


def selected(returned: Any, outputs: Outputs) -> Any:
    """The chosen part of what a network returned.

    Raises UserError if it has no such part.
    """
    if callable(outputs):
        try:
            return outputs(returned)
        except Exception as error:
            raise UserError(
                f"the function in outputs fails for what the network returns, {_described(returned)}: "
                f"{type(error).__name__}: {error}"
            ) from error
    items = [outputs] if isinstance(outputs, str | int) else outputs
    return [_part(returned, item) for item in items]


def _part(returned: Any, item: str | int) -> Any:
    try:
        if isinstance(item, str) and not isinstance(returned, Mapping):
            return getattr(returned, item)
        if not isinstance(returned, Tensor):
            return returned[item]
        if item in (0, -1):  # a single output
            return returned
    except (AttributeError, KeyError, IndexError, TypeError):
        pass
    raise UserError(f"outputs: the network has no output {item!r}. It returns {_described(returned)}.")


def _described(returned: Any) -> str:
    """A short description of the output of a network."""
    if isinstance(returned, Tensor):
        return "one tensor"
    kind = type(returned).__name__
    if isinstance(returned, Mapping):
        return f"a {kind} with {', '.join(map(str, returned))}"
    return f"a {kind} of {len(returned)}" if isinstance(returned, list | tuple) else f"a {kind}"


def tensors_in(value: Any, repeated: bool = False) -> list[Tensor]:
    """Every tensor in ``value``, in order: in lists, tuples, mappings, sets, data classes and other objects.

    A tensor that occurs several times is listed once, or each time if ``repeated``.

    Raises UserError for an object without accessible content (a generator, a function): its tensors would be missed.
    """
    found: list[Tensor] = []
    _collect(value, found, set(), repeated)
    return found


def _collect(value: Any, found: list[Tensor], seen: set[int], repeated: bool) -> None:
    if isinstance(value, Tensor) and repeated:
        found.append(value)
        return
    if isinstance(value, _PLAIN) or id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        found.append(value)
        return
    for part in _parts(value):
        _collect(part, found, seen, repeated)


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
