"""Views, transposes and similar operators, which change only the position of channels."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked
from prunelab.structure.tracing.rules.common import (
    Rule,
    argument,
    plain,
    rearranged,
    statistics_end_here,
    unknown,
)

Sizes = tuple[int, ...]


def view(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``view(input, shape)``: dimensions are matched by their products; merged ones repeat their ids."""
    source, out = inputs[0], outputs[0]
    ledger.kind = "transport"
    if source.uniform:
        return [Marked(tuple(out.shape), [None] * out.dim(), uniform=True, zero=source.zero)]
    dims: Dims = [None] * out.dim()
    known = len(ledger.trace.splits)
    for entering, leaving in _segments(source.shape, tuple(out.shape)):
        carriers = [dim for dim in entering if source.dims[dim] is not None]
        if not carriers or not leaving:
            continue
        if len(carriers) > 1 and not source.activation:  # a weight, whose dimensions have different roles
            for dim in carriers:
                ledger.ids.freeze(source.dims[dim], f"{op} {reasons.MERGES}")
            continue
        carrier = carriers[0] if len(carriers) == 1 else _merged(ledger, op, source, carriers)
        sizes = tuple(out.shape[dim] for dim in leaving)
        place, ids = _reshaped(ledger, source, entering, carrier, sizes)
        dims[leaving[place]] = ids
    split = list(ledger.trace.splits)[-1] if len(ledger.trace.splits) > known else None
    return [Marked(tuple(out.shape), dims, statistics=source.statistics, split=split)]


def _merged(ledger: Ledger, op: str, source: Marked, carriers: list[int]) -> int:
    """Of several merged dimensions of channels (an outer product) the one that carries its channels on: one that is not
    frozen, the widest. The others are frozen."""

    def preference(dim: int) -> tuple[bool, int, int]:
        ids = source.dims[dim]
        return ids is not None and not ledger.ids.is_frozen(ids), source.shape[dim], dim

    chosen = max(carriers, key=preference)
    for dim in carriers:
        if dim != chosen:
            ledger.ids.freeze(source.dims[dim], f"{op} {reasons.MERGES}")
    return chosen


def _segments(before: Sizes, after: Sizes) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of dimensions of ``before`` and ``after`` with the same elements, without those of size 1."""
    entering = [dim for dim, size in enumerate(before) if size != 1]
    leaving = [dim for dim, size in enumerate(after) if size != 1]
    segments = []
    i = j = 0
    while i < len(entering) and j < len(leaving):
        first, second = [entering[i]], [leaving[j]]
        a, b = before[entering[i]], after[leaving[j]]
        i, j = i + 1, j + 1
        while a != b:
            if a < b:
                first.append(entering[i])
                a *= before[entering[i]]
                i += 1
            else:
                second.append(leaving[j])
                b *= after[leaving[j]]
                j += 1
        segments.append((first, second))
    return segments


def _reshaped(
    ledger: Ledger, source: Marked, entering: list[int], carrier: int, sizes: Sizes
) -> tuple[int, Ids]:
    """The new dimension that carries the channels of ``carrier``, and its ids.

    If the channel varies along several new dimensions, one of them carries the channels (the last, unless
    ``ledger.carry`` names another), and positions are tied across the others, so that the removed part is rectangular.
    """
    ids = source.dims[carrier]
    assert ids is not None
    if len(entering) == 1 and len(sizes) == 1:
        return 0, ids
    before = [source.shape[dim] for dim in entering]
    along = [1] * len(before)
    along[entering.index(carrier)] = ids.size
    elements = np.broadcast_to(ids.reshape(along), before).reshape(sizes)
    varying = [axis for axis in range(len(sizes)) if (elements != elements.take([0], axis)).any()]
    chosen = varying[-1] if varying else len(sizes) - 1
    if len(varying) > 1:
        call = ledger.calls.current
        place = call, sum(other == call for other, _ in ledger.trace.splits)
        ledger.trace.splits[place] = (ids, len(varying))
        chosen = varying[-1 - ledger.carry.get(place, 0) % len(varying)]
    rows = np.moveaxis(elements, chosen, -1).reshape(-1, sizes[chosen])
    if len(varying) > 1:
        ledger.ids.tie_rows(np.unique(rows, axis=0))
    return chosen, np.ascontiguousarray(rows[0])


def permute(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``permute``, ``transpose`` and ``t``, also in place (``nn.GRU``)."""
    source = inputs[0]
    op = op.rstrip("_")
    rank = len(source.shape)
    order = list(range(rank))
    if op == "permute":
        order = [dim % rank for dim in args[1]]
    elif op == "t":
        order.reverse()
    else:
        first, second = int(args[1]) % rank, int(args[2]) % rank
        order[first], order[second] = order[second], order[first]
    ledger.kind = "transport"
    return [rearranged(source, outputs[0], [source.dims[dim] for dim in order])]


def expand(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``expand(input, sizes)``: repeated dimensions carry no channels."""
    source, out = inputs[0], outputs[0]
    added: Dims = [None] * (out.dim() - len(source.shape))
    ledger.kind = "transport"
    made = rearranged(source, out, added + list(source.dims))
    offset = len(added)
    made.spread = frozenset(
        dim for dim in range(out.dim()) if dim < offset or source.shape[dim - offset] == 1 < out.shape[dim]
    )
    return [made]


def repeat(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``repeat(input, times)``."""
    source, times = inputs[0], list(args[1])
    added = len(times) - len(source.shape)
    dims: Dims = [None] * added
    for ids, count in zip(source.dims, times[added:], strict=True):
        dims.append(None if ids is None else np.tile(ids, count))
    ledger.kind = "transport"
    made = rearranged(source, outputs[0], dims)
    made.spread = frozenset(
        dim
        for dim, count in enumerate(times)
        if count > 1 and (dim < added or source.shape[dim - added] == 1)
    )
    return [made]


def unsqueeze(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``unsqueeze(input, dim)``."""
    dims = list(inputs[0].dims)
    dims.insert(int(args[1]) % (len(dims) + 1), None)
    ledger.kind = "transport"
    return [rearranged(inputs[0], outputs[0], dims)]


def squeeze(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``squeeze(input[, dim])`` removes dimensions of size 1, which carry no channels."""
    source = inputs[0]
    rank = len(source.shape)
    named = argument(args, kwargs, 1, "dim")
    gone = (
        range(rank) if named is None else [d % rank for d in ([named] if isinstance(named, int) else named)]
    )
    dims = [ids for dim, ids in enumerate(source.dims) if not (dim in gone and source.shape[dim] == 1)]
    ledger.kind = "transport"
    return [rearranged(source, outputs[0], dims)]


def select(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``select(input, dim, index)`` and ``unbind(input, dim)``: single places."""
    source = inputs[0]
    dim = int(argument(args, kwargs, 1, "dim", 0)) % len(source.shape)
    ledger.ids.freeze(source.dims[dim], f"{op} {reasons.SELECTS}")
    dims = [ids for place, ids in enumerate(source.dims) if place != dim]
    ledger.kind = "transport"
    return [rearranged(source, out, list(dims)) for out in outputs]


def unfold(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``unfold(input, dim, size, step)``: windows along places."""
    source = inputs[0]
    dim = int(args[1]) % len(source.shape)
    ledger.ids.freeze(source.dims[dim], f"{op} {reasons.SELECTS}")
    dims: Dims = [None if place == dim else ids for place, ids in enumerate(source.dims)]
    ledger.kind = "transport"
    return [rearranged(source, outputs[0], [*dims, None])]


def glu(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``glu(input, dim)``: the first half times the sigmoid of the second."""
    source = inputs[0]
    statistics_end_here(ledger, op, inputs)
    dim = int(argument(args, kwargs, 1, "dim", -1)) % len(source.shape)
    dims: Dims = list(source.dims)
    ids = dims[dim]
    if ids is not None:
        halves = ids.reshape(2, -1)
        ledger.ids.tie_rows(halves)
        dims[dim] = halves[0] if halves.shape[1] > 1 else None
    return [Marked(tuple(outputs[0].shape), dims)]


def channel_shuffle(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``channel_shuffle(input, groups)``: position i of all groups is tied."""
    source, groups = inputs[0], int(args[1])
    dims: Dims = list(source.dims)
    if dims[1] is not None:
        rows = dims[1].reshape(groups, -1)
        ledger.ids.tie_rows(rows)
        dims[1] = np.ascontiguousarray(rows.T).reshape(-1)
    ledger.kind = "transport"
    return [rearranged(source, outputs[0], dims)]


def restride(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``as_strided_`` to the same shape with one place (global pooling of channels-last images) changes nothing."""
    source, out = inputs[0], outputs[0]
    if source.shape != tuple(out.shape) or any(size > 1 for size in out.shape[2:]):
        return unknown(ledger, op, args, kwargs, inputs, outputs)
    ledger.kind = "transport"
    return [rearranged(source, out, list(source.dims))]


def released(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``set_(input)`` makes a tensor empty, to free its memory (RevNet)."""
    empty = all(out.numel() == 0 for out in outputs)
    return plain(outputs) if empty else unknown(ledger, op, args, kwargs, inputs, outputs)


def nothing(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Operators that read only a size or a property."""
    return plain(outputs)


RULES: dict[str, Rule] = {
    "view": view,
    "_unsafe_view": view,
    "reshape": view,
    "_reshape_alias": view,
    "permute": permute,
    "transpose": permute,
    "transpose_": permute,
    "t": permute,
    "t_": permute,
    "expand": expand,
    "repeat": repeat,
    "unsqueeze": unsqueeze,
    "unsqueeze_": unsqueeze,
    "squeeze": squeeze,
    "squeeze_": squeeze,
    "select": select,
    "unbind": select,
    "unfold": unfold,
    "glu": glu,
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "as_strided_": restride,
    "set_": released,
    "sym_size": nothing,
    "is_same_size": nothing,
}
