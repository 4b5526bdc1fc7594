"""Indexing and sorting: without effect on channels along places, with a rule for gathers along channels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Gather, Marked
from prunelab.structure.tracing.rules.common import Rule, argument, statistics_end_here, unknown


def index_select(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``index_select(input, dim, index)``.

    Along channels the index must be an integer buffer of the network; its entries are renumbered. If the last entry of
    the input is a channel of zeros, an entry with a removed source points to the zeros (``ZeroPadShortcut``); else the
    entries of a removed channel are removed too (a permutation or selection of channels). Any other use freezes.
    """
    source, chooser = inputs[0], inputs[1]
    dim = int(args[1]) % len(source.shape)
    statistics_end_here(ledger, op, inputs)
    dims: Dims = list(source.dims)
    ids = dims[dim]
    if ids is not None:
        if chooser.tensor is not None and source.op == "cat" and source.parents[-1].zero:
            values = ledger.values(chooser.tensor).cpu().numpy()
            ledger.trace.gathers.append(Gather(chooser.tensor, ids, values))
            ledger.trace.role(chooser, 0, "other")
            dims[dim] = chooser.dims[0]
            if chooser.dims[0] is not None:
                ledger.ids.produce(chooser.dims[0])
        elif chooser.tensor is not None and chooser.dims[0] is not None:
            values = ledger.values(chooser.tensor).cpu().numpy()
            ledger.trace.gathers.append(Gather(chooser.tensor, ids, values))
            ledger.trace.role(chooser, 0, "other")
            ledger.part(np.unique(ids[values]), ids, at_position=False)
            dims[dim] = ledger.tie(chooser.dims[0], ids[values], f"{op} {reasons.SELECTS}")
        else:
            ledger.ids.freeze(ids, f"{op} {reasons.SELECTS}")
            dims[dim] = None
    ledger.kind = "transport"
    return [Marked(tuple(outputs[0].shape), dims)]


def index(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``index(input, [None or tensor per dimension])``: indexed dimensions lose their channels.

    A mask of booleans stands for as many dimensions of the input as it has itself.
    """
    source, out = inputs[0], outputs[0]
    statistics_end_here(ledger, op, inputs)
    indexed: list[int] = []
    dim = 0
    for chooser in args[1]:
        covered = chooser.dim() if chooser is not None and chooser.dtype in (torch.bool, torch.uint8) else 1
        if chooser is not None:
            indexed.extend(range(dim, dim + covered))
            for ids in ledger.marked(chooser).dims:
                ledger.ids.freeze(ids, f"{op} {reasons.SELECTS}")
        dim += covered
    for dim in indexed:
        ledger.ids.freeze(source.dims[dim], f"{op} {reasons.SELECTS}")
    kept: Dims = [ids for dim, ids in enumerate(source.dims) if dim not in indexed]
    places = out.dim() - len(kept)
    first = indexed[0] if indexed else 0
    apart = bool(indexed) and indexed[-1] - first + 1 != len(indexed)
    if apart:  # PyTorch then puts the indexed places first
        first = 0
    return [Marked(tuple(out.shape), [*kept[:first], *[None] * places, *kept[first:]])]


def gather(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``gather(input, dim, index)``: each channel of the input is read at the places in its part of the index.

    The index is the same for all channels (``places[..., None].expand(-1, -1, C)``) or has their ids (from ``topk``).
    Along channels, and with any other index, the channels are frozen.
    """
    source, chooser = inputs[0], inputs[1]
    dim = int(args[1]) % max(1, len(source.shape))
    statistics_end_here(ledger, op, inputs)
    dims: Dims = []
    for place, (ids, own) in enumerate(zip(source.dims, chooser.dims, strict=True)):
        if place == dim:
            for frozen in (ids, own):
                ledger.ids.freeze(frozen, f"{op} {reasons.SELECTS}")
            dims.append(None)
        elif ids is None or source.shape[place] != chooser.shape[place]:
            for frozen in (ids, own):
                ledger.ids.freeze(frozen, f"{op} {reasons.UNKNOWN_INPUT}")
            dims.append(None)
        elif own is None and (place in chooser.spread or chooser.uniform):
            dims.append(ids)
        else:
            dims.append(ledger.tie(ids, own, f"{op} {reasons.UNKNOWN_INPUT}"))
    ledger.kind = "transport"
    return [Marked(tuple(outputs[0].shape), dims)]


def order(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``topk(input, k, dim)`` and ``sort(input, dim)`` (``argsort``): values and their places along ``dim``,
    for each channel; only along places."""
    source = inputs[0]
    statistics_end_here(ledger, op, inputs)
    dim = int(argument(args, kwargs, 2 if op == "topk" else 1, "dim", -1)) % max(1, len(source.shape))
    ledger.ids.freeze(source.dims[dim] if source.dims else None, f"{op} {reasons.ORDERS}")
    ledger.kind = "transport"
    dims: Dims = [None if place == dim else ids for place, ids in enumerate(source.dims)]
    return [Marked(tuple(out.shape), list(dims)) for out in outputs]


def index_put(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``target[index, ...] = values`` along leading dimensions of a target that was made for it (``zeros``).

    Detectors collect the features of their regions in this way. A target that is a view is frozen, because the write
    changes the tensor that it views.
    """
    target, values, choosers = ledger.marked(args[0]), ledger.marked(args[2]), list(args[1])
    rank, rest = len(target.shape), len(target.shape) - len(choosers)
    made_for_it = target.uniform and target.kind != "transport"
    indexed = all(chooser is not None for chooser in choosers) and len(values.shape) >= rest
    if not indexed or not (made_for_it or target.op == op) or (len(args) > 3 and args[3]):
        return unknown(ledger, op, args, kwargs, inputs, outputs)
    statistics_end_here(ledger, op, inputs)
    for ids in (*target.dims[: rank - rest], *values.dims[: len(values.shape) - rest]):
        ledger.ids.freeze(ids, f"{op} {reasons.SELECTS}")
    dims: Dims = [None] * rank
    for place in range(-rest, 0):
        ids = None if values.uniform else values.dims[place]
        dims[place] = (
            ids if target.uniform else ledger.tie(target.dims[place], ids, f"{op} {reasons.UNKNOWN_INPUT}")
        )
    ledger.kind = "transport"
    return [Marked(target.shape, dims)]


def embedding(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``embedding(weight, indices)``: the result has the channels of the vectors; the vocabulary is frozen."""
    weight, out = inputs[0], outputs[0]
    ledger.ids.freeze(weight.dims[0], f"{op} {reasons.VOCABULARY}")
    ledger.trace.role(weight, 1, "producer")
    if weight.dims[1] is not None:
        ledger.ids.produce(weight.dims[1])
    return [Marked(tuple(out.shape), [*[None] * (out.dim() - 1), weight.dims[1]])]


def roll(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``roll(input, shifts, dims)`` and ``flip(input, dims)``: only along places."""
    source = inputs[0]
    statistics_end_here(ledger, op, inputs)
    moved = args[-1] if isinstance(args[-1], (list, tuple)) else [args[-1]]
    dims: Dims = list(source.dims)
    for dim in moved:
        ledger.ids.freeze(dims[dim], f"{op} {reasons.SELECTS}")
    ledger.kind = "transport"
    return [Marked(source.shape, dims)]


RULES: dict[str, Rule] = {
    "index_select": index_select,
    "index": index,
    "_unsafe_index": index,
    "index_put": index_put,
    "index_put_": index_put,
    "gather": gather,
    "topk": order,
    "sort": order,
    "embedding": embedding,
    "roll": roll,
    "flip": roll,
}
