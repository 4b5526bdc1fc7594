"""Contractions: convolutions and matrix products. They read (consume) channels and produce new ones."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked, Place, Read
from prunelab.structure.tracing.rules.common import Rule, argument, beside, is_summed, statistics_end_here

FUSED_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_fused_attention_overrideable",
)  # fmt: skip


def convolution(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``convolution(input, weight, bias, stride, padding, dilation, transposed, output_padding, groups)``."""
    source, weight = ledger.marked(args[0]), ledger.marked(args[1])
    bias = ledger.marked(args[2]) if args[2] is not None else None
    transposed, groups = bool(args[6]), int(args[8])
    # The bias of merged layers is a sum over weights, in which removed channels can be zero.
    merged = bias is not None and is_summed(bias)
    statistics_end_here(ledger, op, tuple(each for each in inputs if not (merged and each is bias)))
    out = outputs[0]
    along = [_moved_along(ledger, op, source, weight, out, args, dim) for dim in range(2, out.dim())]
    return [_convolved(ledger, op, source, weight, bias, out, transposed, groups, along)]


def deformable(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """torchvision's ``deform_conv2d(input, weight, offset, mask, bias, ..., groups, offset_groups, use_mask)``.

    Offsets and mask belong to the places of the kernel. Several groups of offsets keep equal widths.
    """
    source, weight, offset, mask, bias = (ledger.marked(tensor) for tensor in args[:5])
    groups, offset_groups = int(args[11]), int(args[12])
    statistics_end_here(ledger, op, inputs)
    for ids in (*source.dims[2:], *offset.dims, *mask.dims):
        ledger.ids.freeze(ids, f"{op} {reasons.OFFSETS}")
    if offset_groups > 1 and source.dims[1] is not None:
        ledger.ids.tie_rows(source.dims[1].reshape(offset_groups, -1))
    out, own_bias = (
        outputs[0],
        None if bias.uniform else bias,
    )  # torchvision adds zeros if a layer has no bias
    return [_convolved(ledger, op, source, weight, own_bias, out, False, groups, [None] * (out.dim() - 2))]


def _moved_along(
    ledger: Ledger, op: str, source: Marked, weight: Marked, out: Tensor, args: Any, dim: int
) -> Ids | None:
    """The channels of dimension ``dim`` of the result, along which the kernel moves (as in ECA).

    If the result is as wide as the input, it is so for any width: the convolution mixes neighbours, which is inexact.
    """
    ids, stride = source.dims[dim], list(args[3])
    if ids is None:
        return None
    if args[6] or out.shape[dim] != ids.size or stride[min(dim - 2, len(stride) - 1)] != 1:
        ledger.ids.freeze(ids, f"{op} {reasons.RESIZES}")
        return None
    if weight.shape[dim] > 1:
        ledger.ids.mark_inexact(ids, f"{op} moves along the channels")
    return ids


def _convolved(
    ledger: Ledger,
    op: str,
    source: Marked,
    weight: Marked,
    bias: Marked | None,
    out: Tensor,
    transposed: bool,
    groups: int,
    along: Dims,
) -> Marked:
    """The result ``out`` of a convolution; ``along`` are the channels of its places."""
    made, read = (1, 0) if transposed else (0, 1)  # the weight dimensions that make and that read channels
    if weight.shape[read if not transposed else 1] == 1 and groups > 1 and groups == source.shape[1]:
        channels = _depthwise(ledger, op, source, weight, groups, transposed)
    elif groups > 1:
        channels = _grouped(ledger, op, source, weight, groups, made, read)
    else:
        channels = weight.dims[made]
        ledger.tie(source.dims[1], weight.dims[read], f"{op} {reasons.UNKNOWN_INPUT}")
        ledger.kind = "produce"
        if source.activation and source.dims[1] is not None:
            ledger.trace.reads.append(Read(source, 1))
    ledger.trace.role(weight, made, "producer")
    ledger.trace.role(weight, read, "consumer")
    if channels is not None:
        ledger.ids.produce(channels)
    places = out.numel() // out.shape[1]
    # A kernel is applied at every place of the output, a transposed one at every place of the input.
    places_of_kernel = prod(source.shape) // source.shape[1] if transposed else places
    beside = tuple(ids for ids in (source.dims[0], *along) if ids is not None)
    _count(ledger, weight, places_of_kernel, beside)
    if bias is not None:
        channels = _bias(ledger, op, channels, bias, places, out.shape[1], beside)
    return Marked(tuple(out.shape), [source.dims[0], channels, *along])


def _depthwise(
    ledger: Ledger, op: str, source: Marked, weight: Marked, groups: int, transposed: bool
) -> Ids | None:
    """Each input channel has separate filters: output channel o comes from input channel o // multiplier."""
    ledger.kind = "carry"
    multiplier = (weight.shape[1] if transposed else weight.shape[0] // groups) or 1
    channels = source.dims[1]
    carried = None if channels is None else np.repeat(channels, multiplier) if multiplier > 1 else channels
    if weight.dims[0] is not None:
        ledger.trace.numbers[ledger.calls.modules[-1], "groups"] = weight.dims[0][::multiplier]
    ledger.trace.role(weight, 0, "depthwise")  # the first role is kept: not "producer"
    return ledger.tie(carried, weight.dims[0], f"{op} {reasons.UNKNOWN_INPUT}")


def _grouped(
    ledger: Ledger, op: str, source: Marked, weight: Marked, groups: int, made: int, read: int
) -> Ids | None:
    """Groups keep equal widths: position i of all groups is tied, in the input and in the output.

    In a convolution that loses whole groups, all channels of a group are tied, input and output together.
    """
    ledger.kind = "produce"
    entering, leaving = source.dims[1], weight.dims[made]
    if (
        made == 0
        and entering is not None
        and leaving is not None
        and ledger.loses_groups("groups", leaving, groups)
    ):
        ledger.ids.tie_rows(entering.reshape(groups, -1).T)
        ledger.ids.tie(entering.reshape(groups, -1)[:, 0], leaving.reshape(groups, -1)[:, 0])
        ledger.ids.freeze(weight.dims[read], f"{op} {reasons.LOSES_GROUPS}")
        ledger.trace.reads.append(Read(source, 1))
        return leaving
    if entering is None:
        ledger.ids.freeze(weight.dims[read], f"{op} {reasons.UNKNOWN_INPUT}")
    else:
        rows = entering.reshape(groups, -1)
        ledger.ids.tie_rows(rows)
        computed = f"{op} {reasons.UNKNOWN_WEIGHT}"
        if read == 1:
            ledger.tie(rows[0] if rows.shape[1] > 1 else None, weight.dims[1], computed)
        else:
            ledger.tie(entering, weight.dims[0], computed)
        ledger.trace.reads.append(Read(source, 1))
    if made == 0 and leaving is not None:
        ledger.ids.tie_rows(leaving.reshape(groups, -1))
        return leaving
    if (
        leaving is None
    ):  # a weight without channels, or one output channel per group of a transposed convolution
        return None
    return np.tile(leaving, groups)


def _count(ledger: Ledger, weight: Marked, places_of_kernel: int, beside: tuple[Ids, ...]) -> None:
    """FLOPs of a convolution without its bias: 2 x (entries of the weight) x (places of the kernel).

    ``beside``: channels that the places have.
    """
    factors = (*(ids for ids in weight.dims[:2] if ids is not None), *beside)
    total = 2.0 * places_of_kernel * prod(weight.shape)
    ledger.count(total / prod(ids.size for ids in factors), factors)


def _bias(
    ledger: Ledger,
    op: str,
    channels: Ids | None,
    bias: Marked,
    places: int,
    width: int,
    beside: tuple[Ids, ...] = (),
) -> Ids | None:
    """Tie a bias (width,) to the channels that it is added to, and count its additions -> the channels of the sum.

    ``beside``: channels that the places have.
    """
    ledger.trace.role(bias, 0, "bias")
    joined = channels
    if width > 1:
        reason = f"{op} {reasons.UNKNOWN_SUMMAND}"
        joined = ledger.tie(channels, bias.dims[-1], reason)
    factors = beside if width == 1 or joined is None else (joined, *beside)
    ledger.count(float(places * width) / prod(ids.size for ids in factors), factors, bias=True)
    return joined


def addmm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``addmm(bias, a, b)`` = bias + a @ b; also ``baddbmm``."""
    bias = ledger.marked(args[0])
    made = matmul(ledger, op, args[1:3], kwargs, inputs[1:], outputs)[0]
    out = outputs[0]
    if argument(args, kwargs, 3, "beta", 1) != 0:
        if len(bias.shape) == 1:
            places = out.numel() // out.shape[-1]
            made.dims[-1] = _bias(ledger, op, made.dims[-1], bias, places, out.shape[-1])
        else:
            for place in range(-len(bias.shape), 0):
                if bias.shape[place] == out.shape[place] > 1 and not bias.uniform:
                    reason = f"{op} {reasons.UNKNOWN_SUMMAND}"
                    made.dims[place] = ledger.tie(made.dims[place], bias.dims[place], reason)
    return [made]


def matmul(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``mm(a, b)`` and ``bmm(a, b)``: rows of a, columns of b; the dimension between is contracted."""
    left, right = ledger.marked(args[0]), ledger.marked(args[1])
    statistics_end_here(ledger, op, inputs)
    ledger.kind = "produce"
    between_left, between_right = left.dims[-1], right.dims[-2]
    if left.activation and right.activation and (between_left is not None or between_right is not None):
        between_left = _contract_activations(ledger, op, (left, between_left), (right, between_right))
    elif left.shape[-1] > 1:
        between_left = _contract(ledger, op, left, right)
    for operand, dim in ((left, -1), (right, -2)):
        if operand.activation and operand.dims[dim] is not None:
            ledger.trace.reads.append(Read(operand, len(operand.shape) + dim))
    for operand, made, read in ((right, -1, -2), (left, -2, -1)):
        ledger.trace.role(operand, made, "producer")
        ledger.trace.role(operand, read, "consumer")
    out = outputs[0]
    dims: Dims = [None] * out.dim()
    if out.dim() == 3 and out.shape[0] > 1:
        _require_heads(ledger, left, right, 0)
        dims[0] = (
            ledger.tie(left.dims[0], right.dims[0], f"{op} {reasons.UNKNOWN_INPUT}")
            if left.carries or right.carries
            else None
        )
    dims[-2], dims[-1] = left.dims[-2], right.dims[-1]
    for operand, ids in ((left, dims[-2]), (right, dims[-1])):
        if ids is not None and not operand.activation:
            ledger.ids.produce(ids)
    factors = tuple(
        ids
        for ids in (dims[0] if out.dim() == 3 else None, dims[-2], dims[-1], between_left)
        if ids is not None
    )
    total = 2.0 * out.numel() * left.shape[-1]
    coefficient = total / prod(ids.size for ids in factors)
    ledger.count(coefficient, factors)
    return [Marked(tuple(out.shape), dims)]


def _contract_activations(
    ledger: Ledger, op: str, first: tuple[Marked, Ids | None], second: tuple[Marked, Ids | None]
) -> Ids | None:
    """Queries times keys: the contracted channels of both operands are tied, so that both lose the same ones.

    If they are the width of several heads, they are frozen, and the heads can be removed instead. Only if nothing else
    can carry the channels of the view that split them, they are tied.
    """
    for operand, ids in (first, second):
        place = None if ids is None else _split_of(operand)
        if place is None:
            continue
        ledger.trace.contracted.add(place)
        if ledger.carry.get(place, 0) < ledger.trace.splits[place][1]:
            for _, channels in (first, second):
                ledger.ids.freeze(channels, f"{op} {reasons.TWO_ACTIVATIONS}")
            return first[1]
    return ledger.tie(first[1], second[1], f"{op} {reasons.UNKNOWN_INPUT}")


def _require_heads(ledger: Ledger, first: Marked, second: Marked, dim: int) -> None:
    """Dimension ``dim`` of two operands are heads. If only one of them has channels there, the view that split the
    channels of the other (queries, keys and values of layers of their own) has to choose its heads as well."""
    for operand, other in ((first, second), (second, first)):
        if operand.dims[dim] is None and other.dims[dim] is not None:
            place = _split_of(operand)
            if place is not None:
                ledger.trace.to_other_part.add(place)


def _split_of(marked: Marked) -> Place | None:
    """The view that split the channels of ``marked``, if only their places and signs have changed since."""
    while marked.split is None and marked.kind in ("transport", "pointwise") and marked.parents:
        marked = next((each for each in marked.parents if each.activation), marked.parents[0])
    return marked.split


def _contract(ledger: Ledger, op: str, left: Marked, right: Marked) -> Ids | None:
    """Tie the last dimension of ``left`` to the last but one of ``right`` -> the contracted channels.

    Zeros (the first state of a recurrent layer) have the width of the weights that read them.
    """
    between_left, between_right = left.dims[-1], right.dims[-2]
    if between_left is None and between_right is not None:
        between_left = _read_zeros(left, between_right)
    return ledger.tie(between_left, between_right, f"{op} {reasons.UNKNOWN_INPUT}")


def _read_zeros(marked: Marked, ids: Ids) -> Ids | None:
    """The channels of the last dimension of zeros: ``ids`` if they are read for the first time. None if ``marked`` is
    not a tensor of zeros."""
    while marked.uniform and marked.zero:
        if marked.kind != "transport" or not marked.parents:
            if marked.dims[-1] is None and marked.shape[-1] == ids.size:
                marked.dims[-1] = ids
            return marked.dims[-1]
        marked = marked.parents[0]
    return None


def attention(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Fused attention on (N, heads, tokens, width): heads are tied, and the widths of queries and keys."""
    query, key, value = (ledger.marked(tensor) for tensor in args[:3])
    statistics_end_here(ledger, op, inputs)
    for marked in inputs[3:]:
        for ids in marked.dims:
            ledger.ids.freeze(ids, f"{op} {reasons.MASKS_HEADS}")
    if query.dims[-1] is not None or key.dims[-1] is not None:
        contracted = _contract_activations(ledger, op, (query, query.dims[-1]), (key, key.dims[-1]))
        if kwargs.get("scale") is None:
            ledger.ids.mark_inexact(contracted, f"{op} {reasons.SCALES}")
    for operand in (query, key, value):
        ledger.ids.freeze(operand.dims[-2], f"{op} {reasons.ALONG}")
    heads = query.dims[1]
    for operand in (key, value):
        if operand.shape[1] == query.shape[1] > 1:
            _require_heads(ledger, query, operand, 1)
            heads = (
                ledger.tie(heads, operand.dims[1], f"{op} {reasons.UNKNOWN_INPUT}")
                if heads is not None or operand.dims[1] is not None
                else None
            )
        else:
            ledger.ids.freeze(heads, f"{op} {reasons.BROADCASTS_HEADS}")
            ledger.ids.freeze(operand.dims[1], f"{op} {reasons.BROADCASTS_HEADS}")
    out = outputs[0]
    made = Marked(tuple(out.shape), [None, heads, None, value.dims[-1]])
    tokens = key.shape[2] * query.shape[2] * query.shape[0]
    for width, ids in ((query.shape[-1], query.dims[-1]), (value.shape[-1], value.dims[-1])):
        factors = tuple(found for found in (heads, ids) if found is not None)
        total = 2.0 * tokens * query.shape[1] * width
        coefficient = total / prod(found.size for found in factors)
        ledger.count(coefficient, factors)
    return [made, *beside(outputs[1:])]


RULES: dict[str, Rule] = {
    "convolution": convolution,
    "deform_conv2d": deformable,
    "addmm": addmm,
    "baddbmm": addmm,
    "mm": matmul,
    "bmm": matmul,
    **dict.fromkeys(FUSED_ATTENTION, attention),
}
