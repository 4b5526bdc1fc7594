"""Results of common operators on the meta device, made from their shapes alone.

PyTorch works out the shape of a batch normalisation or of ``relu6`` on the meta device by running a decomposition in
Python, operator by operator: close to a millisecond each, more than everything else in a trace together. These
results have the shape of the first argument. Whatever is unusual (training mode, sizes that do not fit, mixed types)
is left to PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """``func(*args, **kwargs)``; on the meta device without PyTorch's detour where the result's shape is known."""
    known = _KNOWN.get(func)
    if known is not None and args[0].is_meta:
        result = known(*args, **kwargs)
        if result is not None:
            return result
    return func(*args, **kwargs)


def _function(x: Tensor, *others: Any, **named: Any) -> Tensor | None:
    """A function of one tensor."""
    return torch.empty_like(x) if x.is_floating_point() else None


def _function_in_place(x: Tensor, *others: Any, **named: Any) -> Tensor:
    return x


def _of_two(x: Tensor, y: Any, **named: Any) -> Tensor | None:
    """A function of two tensors that are laid out alike."""
    alike = isinstance(y, Tensor) and y.is_meta and x.shape == y.shape and x.stride() == y.stride()
    return torch.empty_like(x) if alike and x.dtype == y.dtype else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *others: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    if training or not _fit((weight, bias, mean, variance), x.shape[1:2]):
        return None
    return _normalised(x)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Any, bias: Any, *others: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    fits = tuple(x.shape[x.dim() - len(shape) :]) == tuple(shape) and _fit((weight, bias), shape)
    return _normalised(x) if fits else None


def _normalised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised x, and statistics that only a backward pass reads."""
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _fit(parts: Sequence[Tensor | None], shape: Sequence[int]) -> bool:
    return all(part is None or tuple(part.shape) == tuple(shape) for part in parts)


_KNOWN: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (_aten.relu.default, _aten.hardtanh.default, _aten.hardswish.default, _aten.hardsigmoid.default,
         _aten.gelu.default, _aten.silu.default, _aten.sigmoid.default),
        _function,
    ),
    **dict.fromkeys(
        (_aten.relu_.default, _aten.hardtanh_.default, _aten.hardswish_.default, _aten.hardsigmoid_.default,
         _aten.gelu_.default, _aten.silu_.default, _aten.sigmoid_.default),
        _function_in_place,
    ),
    **dict.fromkeys((_aten.add.Tensor, _aten.mul.Tensor), _of_two),
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
}  # fmt: skip
