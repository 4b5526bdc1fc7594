"""Slices, splits, concatenations and stacks."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked
from prunelab.structure.tracing.rules.common import Rule, argument, rearranged, statistics_end_here


def slice_(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``slice(input, dim, start, end, step)``; equal slices of a channel dimension keep equal widths."""
    source = inputs[0]
    dim = int(argument(args, kwargs, 1, "dim", 0)) % len(source.shape)
    dims: Dims = list(source.dims)
    ids = dims[dim]
    ledger.kind = "transport"
    if ids is None:
        return [rearranged(source, outputs[0], dims)]
    start, end, step = slice(*(argument(args, kwargs, place, "", None) for place in (2, 3, 4))).indices(
        ids.size
    )
    if step != 1:
        ledger.ids.freeze(ids, f"{op} {reasons.STEPS}")
    taken = ids[start:end:step]
    if 0 < taken.size < ids.size and ids.size % taken.size == 0 and start % taken.size == 0:
        ledger.ids.tie_rows(ids.reshape(-1, taken.size))
    if start > 0:
        ledger.claim(start, ids[:start])
    if end < ids.size:
        ledger.claim(end, ids[:end])
    ledger.part(taken, ids)
    dims[dim] = taken if taken.size > 1 else None
    if taken.size == 1:
        ledger.ids.freeze(taken, f"{op} {reasons.SINGLE}")
    return [rearranged(source, outputs[0], dims)]


def split(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``split(input, size or sizes, dim)``, also ``chunk`` and LSTM gates: equal parts keep equal widths."""
    source = inputs[0]
    dim = int(argument(args, kwargs, 2, "dim", 0)) % len(source.shape)
    ids = source.dims[dim]
    ledger.kind = "transport"
    sizes = [out.shape[dim] for out in outputs]
    if ids is None:
        return [rearranged(source, out, list(source.dims)) for out in outputs]
    parts = np.split(ids, np.cumsum(sizes)[:-1])
    if len(set(sizes)) == 1 and len(sizes) > 1:
        ledger.ids.tie_rows(np.stack(parts))
    made = []
    for out, part in zip(outputs, parts, strict=True):
        dims: Dims = list(source.dims)
        ledger.part(part, ids)
        dims[dim] = part if part.size > 1 else None
        if part.size == 1:
            ledger.ids.freeze(part, f"{op} {reasons.SINGLE}")
        if len(parts) > 1:
            ledger.claim(out.shape[dim], part)
        made.append(rearranged(source, out, dims))
    return made


def cat(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``cat(tensors, dim)``: ids are concatenated. Channels of one value (a shortcut with zeros) have ids too; another
    part without channels is frozen."""
    statistics_end_here(ledger, op, inputs)
    out = outputs[0]
    # PyTorch ignores empty tensors of one dimension, for any rank of the others.
    parts = [marked for marked in inputs if len(marked.shape) == out.dim()]
    along = int(argument(args, kwargs, 1, "dim", 0)) % out.dim()
    dims: Dims = []
    for dim in range(out.dim()):
        if dim == along:
            dims.append(_concatenated(ledger, op, parts, dim))
            continue
        present = [marked for marked in parts if not marked.uniform]
        joined = present[0].dims[dim] if present else None
        for marked in present[1:]:
            if marked.shape[dim] > 1:
                joined = ledger.tie(joined, marked.dims[dim], f"{op} {reasons.UNKNOWN_INPUT}")
        dims.append(joined)
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), dims)]


def _concatenated(ledger: Ledger, op: str, parts: list[Marked], dim: int) -> Ids | None:
    if all(marked.dims[dim] is None for marked in parts):
        return None
    pieces, filled = [], []
    for marked in parts:
        ids = marked.dims[dim]
        if ids is None:
            ids = ledger.ids.fresh(marked.shape[dim])
            if marked.uniform:
                marked.dims[dim] = ids  # a trial shows whether its width follows
                filled.append(ids)
            else:
                ledger.ids.freeze(ids, f"{op} {reasons.UNKNOWN_INPUT}")
        pieces.append(ids)
    ledger.tie_filled(filled, op)
    return np.concatenate(pieces)


def stack(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``stack(tensors, dim)``: a new dimension; the others are tied."""
    statistics_end_here(ledger, op, inputs)
    out = outputs[0]
    new = int(argument(args, kwargs, 1, "dim", 0)) % out.dim()
    dims: Dims = []
    for dim in range(out.dim() - 1):
        joined = inputs[0].dims[dim]
        for marked in inputs[1:]:
            if marked.shape[dim] > 1:
                joined = ledger.tie(joined, marked.dims[dim], f"{op} {reasons.UNKNOWN_INPUT}")
        dims.append(joined)
    dims.insert(new, None)
    ledger.kind = "transport"
    return [Marked(tuple(out.shape), dims)]


RULES: dict[str, Rule] = {
    "slice": slice_,
    "split": split,
    "split_with_sizes": split,
    "unsafe_split": split,
    "unsafe_split_with_sizes": split,
    "cat": cat,
    "stack": stack,
}
