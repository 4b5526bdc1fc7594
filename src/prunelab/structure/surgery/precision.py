"""Float64 for a forward pass, also where the code of the network selects another floating-point type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_DOUBLE = {
    **dict.fromkeys((torch.float32, torch.float16, torch.bfloat16), torch.float64),
    **dict.fromkeys((torch.complex64, torch.complex32), torch.complex128),
}


def copied(values: Any, double: bool) -> Any:
    """``values`` with a copy of each tensor in them, floating-point ones as float64 if ``double``.

    A tensor in several places is copied once.
    """
    made: dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in made:
            dtype = _DOUBLE.get(value.dtype, value.dtype) if double else value.dtype
            made[id(value)] = value.detach().to(dtype, copy=True)
        return made[id(value)]

    return tree_map(copy, values)


@contextmanager
def double_precision() -> Iterator[None]:
    """Context in which every operator computes in float64.

    New tensors are float64 by default, a type that the network names (``x.float()``, ``softmax(dtype=torch.float32)``,
    ``zeros(dtype=torch.float32)``) is replaced by float64, and so are float32 tensors that the network holds outside
    its parameters and buffers.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Double():
            yield
    finally:
        torch.set_default_dtype(default)


class _Double(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No operator is compiled here: this saves a guard of the compiler around each."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        aliased = _aliased(func)
        args = tuple(value if place in aliased else _promoted(value) for place, value in enumerate(args))
        named = {
            name: value if name in aliased else _promoted(value) for name, value in (kwargs or {}).items()
        }
        return func(*args, **named)


@cache
def _aliased(func: Any) -> frozenset[int | str]:
    """The arguments (by place and by name) that an operator writes into or returns a view of."""
    found: set[int | str] = set()
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None:
            found.update((place, argument.name))
    return frozenset(found)


def _promoted(value: Any) -> Any:
    if isinstance(value, torch.dtype):
        return _DOUBLE.get(value, value)
    if isinstance(value, Tensor) and value.dtype in _DOUBLE:
        return torch.ops.aten._to_copy.default(value, dtype=_DOUBLE[value.dtype])
    if isinstance(value, list | tuple):
        return type(value)(_promoted(each) for each in value)
    return value
