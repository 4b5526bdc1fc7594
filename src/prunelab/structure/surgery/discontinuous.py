"""Operators at which rounding can change a result by much: the order of two equal scores, a comparison, ``floor``.

Two runs that agree up to rounding may part there. The masked run records such operators; the pruned run compares
what enters each of them and continues with the recorded result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from prunelab.structure.tracing.calls import Call, Calls
from prunelab.structure.tracing.operators import name_of, operands
from prunelab.structure.tracing.rules.common import argument

LEAST_SCALE = 1e-6
"""Differences between inputs that are smaller than this throughout are relative to this number."""

_STEPS = {"round", "floor", "ceil", "trunc", "sign", "floor_divide", "heaviside"}
# Values and their indices along a dimension: the place of the argument ``dim`` and its default.
_CHOICES = {
    "sort": (1, -1), "topk": (2, -1), "max": (1, 0), "min": (1, 0), "kthvalue": (2, -1), "median": (1, -1),
    "mode": (1, -1),
}  # fmt: skip

_Place = tuple[Call, str, int]


@dataclass(frozen=True)
class _Recorded:
    inputs: list[Tensor]
    out: Any


@dataclass
class Record:
    """The discontinuous operators of a run: (Python-level call, operator, number in that call) -> inputs and result."""

    found: dict[_Place, _Recorded] = field(default_factory=dict)


class _AtSteps(TorchDispatchMode):
    """Sees each discontinuous operator of a run whose Python-level calls ``calls`` numbers."""

    def __init__(self, calls: Calls) -> None:
        super().__init__()
        self._calls = calls
        self._counts: dict[tuple[Call, str], int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No operator is compiled here: this saves a guard of the compiler around each."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, name_of(func)
        out = func(*args, **kwargs)
        inputs = operands(*args, *kwargs.values())
        if name.endswith("_") or not any(tensor.is_floating_point() for tensor in inputs):
            return out
        if not _is_step(name, out):
            return out
        at = (self._calls.current, name)
        number = self._counts[at] = self._counts.get(at, -1) + 1
        place, default = _CHOICES.get(name, (1, 0))
        dim = int(argument(args, kwargs, place, "dim", default)) if name in _CHOICES else 0
        return self.at_step((*at, number), inputs, out, dim)

    def at_step(self, place: _Place, inputs: list[Tensor], out: Any, dim: int) -> Any:
        """The result to continue with; ``dim`` is the dimension of a choice."""
        raise NotImplementedError


class Recording(_AtSteps):
    """Fills ``record`` with the discontinuous operators of a run."""

    def __init__(self, calls: Calls, record: Record) -> None:
        super().__init__(calls)
        self._record = record

    def at_step(self, place: _Place, inputs: list[Tensor], out: Any, dim: int) -> Any:
        result = tuple(each.clone() for each in out) if isinstance(out, tuple) else _copied(out)
        self._record.found[place] = _Recorded([tensor.clone() for tensor in inputs], result)
        return out


class Repeating(_AtSteps):
    """Compares a run with ``record`` at each discontinuous operator, and continues with the recorded result.

    ``differences`` grows by ``difference(recorded input, own input, LEAST_SCALE)`` for each floating-point input. An
    operator whose inputs have other shapes than the recorded ones (channels are removed) is not changed.
    """

    def __init__(
        self, calls: Calls, record: Record, difference: Callable[[Tensor, Tensor, float], float]
    ) -> None:
        super().__init__(calls)
        self.differences: list[float] = []
        self._record, self._difference = record, difference

    def at_step(self, place: _Place, inputs: list[Tensor], out: Any, dim: int) -> Any:
        recorded = self._record.found.get(place)
        if recorded is None or [each.shape for each in recorded.inputs] != [each.shape for each in inputs]:
            return out
        for expected, found in zip(recorded.inputs, inputs, strict=True):
            if found.is_floating_point():
                self.differences.append(self._difference(expected, found, LEAST_SCALE))
        if isinstance(out, tuple):
            indices = recorded.out[1].clone()
            return _at(inputs[0], dim, indices), indices
        return _copied(recorded.out)


def _is_step(name: str, out: Any) -> bool:
    """Whether an operator of floating-point inputs is discontinuous: its result consists of indices, integers or
    booleans, or steps from one value to another."""
    if isinstance(out, Tensor):
        return name in _STEPS or not (out.is_floating_point() or out.is_complex())
    return isinstance(out, bool | int | float) or (name in _CHOICES and len(out) == 2)


def _at(source: Tensor, dim: int, indices: Tensor) -> Tensor:
    """The entries of ``source`` that a sort, or a reduction of dimension ``dim``, has chosen."""
    if indices.dim() == source.dim():
        return source.gather(dim, indices)
    return source.gather(dim, indices.unsqueeze(dim)).squeeze(dim)


def _copied(out: Any) -> Any:
    """A copy, because the network may write into the original."""
    return out.clone() if isinstance(out, Tensor) else out
