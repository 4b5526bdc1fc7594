"""Results of common operators on the meta device, computed only from shapes.

PyTorch computes the shape of a batch normalisation, of ``relu6`` or of ``addmm`` on the meta device by a decomposition
in Python, operator by operator: almost a millisecond each, more than all other work of a trace together. Here, shape
and memory layout follow from those of the inputs. Unusual calls (training mode, sizes that do not fit, mixed types,
other layouts) are computed by PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

_aten = torch.ops.aten


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """``func(*args, **kwargs)``; on the meta device from shapes where the shape of the result is known."""
    if func is _aten.convolution.default:
        _check_channels(*args)
    known = _KNOWN.get(func)
    if known is not None and _on_meta(args[0]):
        result = known(*args, **kwargs)
        if result is not None:
            return result
    return func(*args, **kwargs)


def _check_channels(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int,
) -> None:  # fmt: skip
    """The meta device accepts a transposed convolution of any number of channels, any bias, and groups of unequal
    size. Raises RuntimeError as other devices do."""
    read, made = (weight.shape[0], weight.shape[1] * groups) if transposed else (x.shape[1], weight.shape[0])
    if x.shape[1] != read:
        raise RuntimeError(
            f"Given transposed=1, weight of size {list(weight.shape)}, expected input{list(x.shape)} to have {read} "
            f"channels, but got {x.shape[1]} channels instead"
        )
    if made % groups or x.shape[1] % groups:
        raise RuntimeError(
            f"Given groups={groups}, a convolution of {x.shape[1]} to {made} channels: not divisible by groups"
        )
    if bias is not None and tuple(bias.shape) != (made,):
        raise RuntimeError(f"Given a convolution to {made} channels, but a bias of size {list(bias.shape)}")


def _on_meta(first: Any) -> bool:
    """The first argument is a tensor or a list of tensors."""
    return first.is_meta if isinstance(first, Tensor) else bool(first) and first[0].is_meta


def _function(x: Tensor, *others: Any, **named: Any) -> Tensor | None:
    """A function of one tensor."""
    return _like(x) if x.is_floating_point() else None


def _function_in_place(x: Tensor, *others: Any, **named: Any) -> Tensor:
    return x


def _of_two_in_place(x: Tensor, y: Any, **named: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        return x if type(y) in (int, float) and x.is_floating_point() else None
    return x if x.shape == y.shape and x.dtype == y.dtype and y.is_meta else None


def _of_two(x: Tensor, y: Any, **named: Any) -> Tensor | None:
    """A function of a tensor and a number, or of two tensors of equal layout, or contiguous ones of which one is
    broadcast."""
    if not isinstance(y, Tensor):
        return _like(x) if type(y) in (int, float) and x.is_floating_point() else None
    if x.dtype != y.dtype or not y.is_meta:
        return None
    if x.shape == y.shape:
        if x.stride() == y.stride():
            return _like(x)
        if _in_order(x) and _in_order(y):
            return _empty(x, x.shape)
    if not (_plain(x) and y.is_contiguous()):
        return None
    larger, smaller = (x, y) if x.dim() >= y.dim() and x.numel() >= y.numel() else (y, x)
    pairs = zip(reversed(larger.shape), reversed(smaller.shape), strict=False)
    repeated = larger.dim() >= smaller.dim() and all(few in (1, many) for many, few in pairs)
    return _like(larger) if repeated and _plain(larger) else None


def _addmm(bias: Tensor, x: Tensor, y: Tensor, **named: Any) -> Tensor | None:
    fits = tuple(bias.shape) in ((y.shape[-1],), (1, y.shape[-1]), (x.shape[0], y.shape[-1]))
    return _product(x, y) if fits and bias.dtype == x.dtype else None


def _product(x: Tensor, y: Tensor) -> Tensor | None:
    """The product of two matrices, or of two batches of matrices."""
    if x.dtype != y.dtype or x.shape[-1] != y.shape[-2] or x.shape[:-2] != y.shape[:-2]:
        return None
    return _empty(x, (*x.shape[:-1], y.shape[-1]))


def _softmax(x: Tensor, *others: Any, **named: Any) -> Tensor | None:
    return _like(x) if x.is_floating_point() and _plain(x) else None


def _resized(x: Tensor, size: Sequence[int], *others: Any) -> Tensor | None:
    shape = (*x.shape[:2], *size)
    if _plain(x):
        return _empty(x, shape)
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() and min(size) > 1:
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return None


def _sampled(x: Tensor, grid: Tensor, *others: Any) -> Tensor | None:
    """``grid_sampler``: (N, C, *places) at grid (N, *new places, dimensions)."""
    fits = (
        x.dtype == grid.dtype
        and grid.shape[0] == x.shape[0]
        and grid.shape[-1] == x.dim() - 2 == grid.dim() - 2
    )
    return _empty(x, (*x.shape[:2], *grid.shape[1:-1])) if fits else None


def _joined(parts: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The concatenation of tensors that differ only along ``dim``."""
    first = parts[0]
    dim = dim % max(first.dim(), 1)
    rest = [(*part.shape[:dim], *part.shape[dim + 1 :]) for part in parts]
    if not all(
        _plain(part) and part.dtype == first.dtype and other == rest[0]
        for part, other in zip(parts, rest, strict=True)
    ):
        return None
    joined = sum(part.shape[dim] for part in parts)
    return _empty(first, (*first.shape[:dim], joined, *first.shape[dim + 1 :]))


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], transposed: bool, output_padding: Sequence[int], groups: int,
) -> Tensor | None:  # fmt: skip
    usual = x.dim() == weight.dim() == 4 and not transposed and x.dtype == weight.dtype
    if not (usual and _plain(x) and weight.is_contiguous()):
        return None
    if (
        x.shape[1] != weight.shape[1] * groups
        or weight.shape[0] % groups
        or not _fit((bias,), weight.shape[:1])
    ):
        return None
    pads, widths, paces = (list(given) * (2 // len(given)) for given in (padding, dilation, stride))
    places = [
        (x.shape[2 + d] + 2 * pads[d] - widths[d] * (weight.shape[2 + d] - 1) - 1) // paces[d] + 1
        for d in (0, 1)
    ]
    return _empty(x, (x.shape[0], weight.shape[0], *places)) if min(places) > 0 else None


def _plain(x: Tensor) -> bool:
    """Contiguous, and not in "channels last" order, which PyTorch would keep for the result. (With one channel or one
    pixel, only the strides of these dimensions differ.)"""
    if not x.is_contiguous():
        return False
    if x.dim() != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return True
    _, channels, height, width = x.shape
    return x.stride() == (channels * height * width, height * width, width, 1)


def _in_order(x: Tensor) -> bool:
    """Strides decrease and no dimension has size 1, so that the memory order of the dimensions is unique."""
    strides = x.stride()
    decreasing = all(outer > inner for outer, inner in pairwise(strides))
    return decreasing and strides[-1] > 0 and min(x.shape) > 1 if strides else False


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous tensor of the type of ``x`` (``x.new_empty``, in a third of the time)."""
    return torch.empty(shape, dtype=x.dtype, device=x.device)


def _like(x: Tensor) -> Tensor:
    """``torch.empty_like(x)``, for which PyTorch runs a decomposition in Python."""
    return _empty(x, x.shape) if _plain(x) else torch.empty_like(x)


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


def _group_norm(
    x: Tensor, weight: Any, bias: Any, images: int, channels: int, places: int, groups: int, *others: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    fits = x.shape[1] == channels and channels % groups == 0 and _fit((weight, bias), (channels,))
    return _normalised(x) if fits and _plain(x) else None


def _normalised(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised x, and statistics, which only a backward pass reads."""
    statistic = _empty(x, (0,))
    return _like(x), statistic, statistic


def _fit(parts: Sequence[Tensor | None], shape: Sequence[int]) -> bool:
    return all(part is None or tuple(part.shape) == tuple(shape) for part in parts)


_KNOWN: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (_aten.relu.default, _aten.hardtanh.default, _aten.hardswish.default, _aten.hardsigmoid.default,
         _aten.gelu.default, _aten.silu.default, _aten.sigmoid.default, _aten.tanh.default,
         _aten.clamp.default, _aten.clamp_min.default),
        _function,
    ),
    **dict.fromkeys(
        (_aten.relu_.default, _aten.hardtanh_.default, _aten.hardswish_.default, _aten.hardsigmoid_.default,
         _aten.gelu_.default, _aten.silu_.default, _aten.sigmoid_.default, _aten.tanh_.default),
        _function_in_place,
    ),
    **dict.fromkeys((_aten.add_.Tensor, _aten.mul_.Tensor), _of_two_in_place),
    **dict.fromkeys(
        (_aten.add.Tensor, _aten.mul.Tensor, _aten.sub.Tensor, _aten.div.Tensor, _aten.mul.Scalar), _of_two
    ),
    **dict.fromkeys((_aten.mm.default, _aten.bmm.default), _product),
    _aten.addmm.default: _addmm,
    **dict.fromkeys((_aten._softmax.default, _aten._safe_softmax.default), _softmax),
    **dict.fromkeys((_aten.upsample_bilinear2d.default, _aten.upsample_bicubic2d.default), _resized),
    **dict.fromkeys((_aten.grid_sampler_2d.default, _aten.grid_sampler_3d.default), _sampled),
    _aten.cat.default: _joined,
    _aten.convolution.default: _convolution,
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_layer_norm.default: _layer_norm,
    _aten.native_group_norm.default: _group_norm,
}  # fmt: skip
