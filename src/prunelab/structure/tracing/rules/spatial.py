"""Pooling, resizing, padding and rearrangements of places."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked
from prunelab.structure.tracing.rules.common import Rule, statistics_end_here


def spatial(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """(N, C, places...) -> (N, C, other places...)."""
    source = inputs[0]
    statistics_end_here(ledger, op, inputs)
    for ids in source.dims[2:]:
        ledger.ids.freeze(ids, f"{op} {reasons.ALONG}")
    ledger.kind = "transport"
    return [
        Marked(tuple(out.shape), [source.dims[0], source.dims[1], *[None] * (out.dim() - 2)])
        for out in outputs
    ]


def unpool(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``max_unpool2d(input, indices, size)``: the indices of max pooling have the channels of what was pooled."""
    source, indices = inputs[0], inputs[1]
    made = spatial(ledger, op, args, kwargs, inputs[:1], outputs)
    made[0].dims[1] = ledger.tie(source.dims[1], indices.dims[1], f"{op} {reasons.UNKNOWN_INPUT}")
    return made


def pad(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``constant_pad_nd(input, pad, value)``: padded channels have ids of their own, which a shortcut ties. A trial
    shows whether their number follows."""
    source, padding = inputs[0], list(args[1])
    statistics_end_here(ledger, op, inputs)
    dims: Dims = list(source.dims)
    for index in range(0, len(padding), 2):
        dim, before, after = len(dims) - 1 - index // 2, padding[index], padding[index + 1]
        ids = dims[dim]
        if ids is None or (before == 0 and after == 0):
            continue
        if before < 0 or after < 0 or op != "constant_pad_nd":
            ledger.ids.freeze(ids, f"{op} {reasons.RESIZED}")
            dims[dim] = None
            continue
        around = ledger.ids.fresh(before), ledger.ids.fresh(after)
        ledger.tie_filled([part for part in around if part.size], op)
        for part in around:
            ledger.claim(part.size, part)
        dims[dim] = np.concatenate([around[0], ids, around[1]])
    ledger.kind = "transport"
    return [Marked(tuple(outputs[0].shape), dims)]


def pixel_shuffle(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """(N, C r^2, H, W) -> (N, C, H r, W r): the r^2 channels of one output channel are tied."""
    source, factor = inputs[0], int(args[1])
    channels = source.dims[1]
    out = outputs[0]
    if channels is not None:
        rows = channels.reshape(out.shape[1], factor * factor).T
        ledger.ids.tie_rows(rows)
        channels = rows[0] if out.shape[1] > 1 else None
        if channels is None:
            ledger.ids.freeze(source.dims[1], f"{op} {reasons.SINGLE}")
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), [source.dims[0], channels, None, None])]


def pixel_unshuffle(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """(N, C, H r, W r) -> (N, C r^2, H, W): each channel becomes r^2."""
    source, factor = inputs[0], int(args[1])
    channels = source.dims[1]
    channels = None if channels is None else np.repeat(channels, factor * factor)
    ledger.kind = "transport"
    return [Marked(tuple(outputs[0].shape), [source.dims[0], channels, None, None])]


def im2col(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """(N, C, H, W) -> (N, C k^2, places)."""
    source, out = inputs[0], outputs[0]
    channels = source.dims[1]
    channels = None if channels is None else np.repeat(channels, out.shape[1] // source.shape[1])
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), [source.dims[0], channels, None])]


def col2im(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """(N, C k^2, places) -> (N, C, H, W): the k^2 values of one channel are tied (``fold``)."""
    source, out = inputs[0], outputs[0]
    statistics_end_here(ledger, op, inputs)
    ids = source.dims[-2]
    channels = None
    if ids is not None:
        rows = ids.reshape(out.shape[-3], -1).T
        ledger.ids.tie_rows(rows)
        channels = np.ascontiguousarray(rows[0])
    ledger.ids.freeze(source.dims[-1], f"{op} {reasons.ALONG}")
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), [*source.dims[:-2], channels, None, None])]


def regions(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """torchvision's ``roi_align(input, boxes, ...)``: (N, C, H, W), (K, 5) -> (K, C, h, w)."""
    source, boxes = inputs[0], inputs[1]
    statistics_end_here(ledger, op, inputs)
    for ids in (source.dims[0], *source.dims[2:], *boxes.dims):
        ledger.ids.freeze(ids, f"{op} {reasons.ALONG}")
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), [None, source.dims[1], None, None]) for out in outputs]


_SPATIAL = (
    "max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "adaptive_avg_pool1d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact2d", "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
    "_upsample_bicubic2d_aa", "upsample_linear1d", "upsample_trilinear3d",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_SPATIAL, spatial),
    "max_unpool2d": unpool,
    "max_unpool3d": unpool,
    "constant_pad_nd": pad,
    "reflection_pad1d": pad,
    "reflection_pad2d": pad,
    "replication_pad1d": pad,
    "replication_pad2d": pad,
    "pixel_shuffle": pixel_shuffle,
    "pixel_unshuffle": pixel_unshuffle,
    "im2col": im2col,
    "col2im": col2im,
    "roi_align": regions,
    "roi_pool": regions,
}
