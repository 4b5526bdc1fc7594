"""Results on the meta device that are computed only from shapes are those of PyTorch."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from prunelab.structure.tracing.shapes import compute

aten = torch.ops.aten


def _meta(*shape: int, last: bool = False) -> Tensor:
    made = torch.empty(shape, device="meta")
    return made.contiguous(memory_format=torch.channels_last) if last else made


def _same(func: Any, *args: Any, **kwargs: Any) -> None:
    """Shape, memory layout and type of every result are PyTorch's."""
    found, expected = compute(func, args, kwargs), func(*args, **kwargs)
    found, expected = (out if isinstance(out, tuple) else (out,) for out in (found, expected))
    first = found[0]
    assert first.shape == expected[0].shape and first.dtype == expected[0].dtype and first.is_meta
    assert first.stride() == expected[0].stride()
    assert len(found) == len(expected)


IMAGES = [
    _meta(2, 6, 5, 7),
    _meta(2, 6, 5, 7, last=True),
    _meta(1, 6, 1, 1),
    _meta(2, 1, 5, 7),
    _meta(2, 5, 7, 6).permute(0, 3, 1, 2),
    _meta(2, 6, 7, 5).transpose(2, 3),
    _meta(2, 12, 5, 7)[:, ::2],
]


@pytest.mark.parametrize("x", IMAGES, ids=lambda x: f"{tuple(x.shape)}-{x.stride()}")
def test_functions_of_an_image(x: Tensor) -> None:
    for func in (aten.relu, aten.gelu, aten.silu, aten.tanh, aten.hardswish, aten.sigmoid, aten.tanh_):
        _same(func.default, x)
    _same(aten.clamp.default, x, 0.0, 1.0)
    _same(aten.clamp_min.default, x, 0.0)
    _same(aten.mul.Scalar, x, 2)
    for func in (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor):
        _same(func, x, 0.5)
    _same(aten._softmax.default, x, 1, False)
    _same(aten._safe_softmax.default, x, -1)
    for size in ([9, 4], [1, 1], [9, 1]):
        _same(aten.upsample_bilinear2d.default, x, size, False)
        _same(aten.upsample_bicubic2d.default, x, size, False)
    images, width, height, length = x.shape
    statistics = [_meta(width) for _ in range(4)]
    _same(aten.native_batch_norm.default, x, *statistics, False, 0.1, 1e-5)
    for groups in (1, width):
        _same(
            aten.native_group_norm.default,
            *(x, *statistics[:2], images, width, height * length, groups, 1e-5),
        )


@pytest.mark.parametrize(("x", "y"), list(itertools.product(IMAGES, IMAGES)))
def test_functions_of_two_images(x: Tensor, y: Tensor) -> None:
    try:
        torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError:
        for func in (aten.add.Tensor, aten.mul.Tensor):
            with pytest.raises(RuntimeError):
                compute(func, (x, y), {})
        return
    for func in (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor):
        _same(func, x, y)
    for func in (aten.add_.Tensor, aten.mul_.Tensor):
        if torch.broadcast_shapes(x.shape, y.shape) == x.shape:
            _same(func, x, y)


ROWS = [
    _meta(4, 6),
    _meta(4, 24)[:, 6:12],
    _meta(6, 4).t(),
    _meta(6, 8).t()[1::2],
    _meta(1, 6),
    _meta(1, 24)[:, :6],
    _meta(6).expand(4, 6),
]


@pytest.mark.parametrize(("x", "y"), list(itertools.product(ROWS, ROWS)))
def test_functions_of_parts_of_rows(x: Tensor, y: Tensor) -> None:
    """The gates of a recurrent layer are parts of one product."""
    _same(aten.mul.Tensor, x, y)
    _same(aten.mul.Tensor, x, y.double())


@pytest.mark.parametrize("last", [(5,), (1, 5), (4, 5), (3, 4, 5), (3, 1, 5), (4, 1), (1, 1, 1, 5), ()])
def test_a_smaller_tensor_is_repeated(last: tuple[int, ...]) -> None:
    x, y = _meta(3, 4, 5), _meta(*last)
    _same(aten.add.Tensor, x, y)
    _same(aten.mul.Tensor, y, x)
    _same(aten.add.Tensor, x.transpose(0, 1).transpose(0, 1), y)
    _same(aten.add.Tensor, x.double(), y)  # mixed types


def test_matrix_products() -> None:
    x, y = _meta(3, 4), _meta(5, 4).t()
    _same(aten.mm.default, x, y)
    _same(aten.bmm.default, _meta(2, 3, 4), _meta(2, 5, 4).transpose(1, 2))
    for bias in (_meta(5), _meta(1, 5), _meta(3, 5), _meta(3, 1), _meta(1)):
        _same(aten.addmm.default, bias, x, y)
    for func, args in (
        (aten.mm.default, (x, _meta(3, 5))),
        (aten.bmm.default, (_meta(2, 3, 4), _meta(1, 4, 5))),
        (aten.addmm.default, (_meta(4), x, y)),
    ):
        with pytest.raises(RuntimeError):
            compute(func, args, {})


@pytest.mark.parametrize("x", IMAGES, ids=lambda x: f"{tuple(x.shape)}-{x.stride()}")
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"),
    [((1, 1), [1], [0], [1]), ((3, 3), [2, 2], [1, 1], [1, 1]), ((3, 2), [1, 2], [2, 3], [2, 1])],
)
def test_convolutions(
    x: Tensor, kernel: tuple[int, int], stride: list[int], padding: list[int], dilation: list[int]
) -> None:
    for groups in (1, x.shape[1]):
        for last in (False, True):
            weight = _meta(12, x.shape[1] // groups, *kernel, last=last)
            for bias in (None, _meta(12)):
                rest = (stride, padding, dilation, False, [0, 0], groups)
                if min(x.shape[2:]) == 1 and kernel != (1, 1) and padding == [0]:
                    continue
                _same(aten.convolution.default, x, weight, bias, *rest)
    with pytest.raises(RuntimeError):
        compute(
            aten.convolution.default,
            (x, _meta(4, x.shape[1] + 1, 1, 1), None, [1], [0], [1], False, [0], 1),
            {},
        )


def test_a_kernel_larger_than_the_image_is_an_error() -> None:
    with pytest.raises(RuntimeError):
        compute(
            aten.convolution.default,
            (_meta(1, 3, 2, 2), _meta(4, 3, 5, 5), None, [1], [0], [1], False, [0], 1),
            {},
        )


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concatenation(dim: int) -> None:
    for parts in (
        [_meta(2, 3, 4), _meta(2, 3, 4)],
        [_meta(2, 3, 4), _meta(2, 4, 3).transpose(1, 2)],
        [_meta(2, 3, 4, 4), _meta(2, 3, 4, 4, last=True)],
        [_meta(2, 3, 4, 4, last=True), _meta(2, 3, 4, 4, last=True)],
        [_meta(2, 3, 1, 1), _meta(2, 3, 1, 1)],
        [_meta(2, 3, 4), _meta(0)],
        [_meta(2, 3, 4), _meta(2, 3, 4).double()],
    ):
        _same(aten.cat.default, parts, dim)
    with pytest.raises(RuntimeError):
        compute(aten.cat.default, ([_meta(2, 3, 4), _meta(3, 4, 5)], dim), {})


@pytest.mark.parametrize(
    ("places", "func"), [((5, 7), aten.grid_sampler_2d), ((5, 7, 3), aten.grid_sampler_3d)]
)
def test_samples_at_a_grid(places: tuple[int, ...], func: Any) -> None:
    x = _meta(2, 6, *places)
    for new in (places, tuple(2 * size for size in places)):
        _same(func.default, x, _meta(2, *new, len(places)), 0, 0, False)
