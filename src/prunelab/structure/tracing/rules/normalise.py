"""Normalisations and softmax. Over channels they are inexact: the removal of one channel changes the others."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Marked
from prunelab.structure.tracing.rules.common import Rule, beside, freeze_all, plain, statistics_end_here


def batch_norm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``native_batch_norm(input, weight, bias, mean, var, training, ...)``: one statistic per channel."""
    source = ledger.marked(args[0])
    statistics_end_here(ledger, op, inputs)
    channels = source.dims[1]
    for tensor, role in zip(args[1:5], ("scale", "shift", "statistic", "statistic"), strict=False):
        if isinstance(tensor, Tensor):
            channels = _affine(ledger, op, channels, ledger.marked(tensor), role)
    training = next((bool(value) for value in args[3:6] if isinstance(value, bool)), False)
    if training:  # weight standardisation applies it to a weight: the average is over the other dimensions
        for ids in (source.dims[0], *source.dims[2:]):
            ledger.ids.mark_inexact(ids, f"{op} over channels")
    ledger.kind = "pointwise"
    dims = list(source.dims)
    dims[1] = channels
    return [Marked(source.shape, dims), *beside(outputs[1:])]


def _affine(ledger: Ledger, op: str, channels: Ids | None, parameter: Marked, role: str) -> Ids | None:
    if parameter.uniform or parameter.shape[-1] == 1:
        return channels
    ledger.trace.role(parameter, len(parameter.shape) - 1, role)
    return ledger.tie(channels, parameter.dims[-1], f"{op} {reasons.UNKNOWN_INPUT}")


def layer_norm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``native_layer_norm(input, normalized_shape, weight, bias, eps)`` and ``_fused_rms_norm``."""
    source = ledger.marked(args[0])
    statistics_end_here(ledger, op, inputs)
    dims = list(source.dims)
    normalised = range(-len(args[1]), 0)
    for place in normalised:
        ledger.ids.mark_inexact(dims[place], f"{op} over channels")
    for tensor, role in zip(args[2:4], ("scale", "shift"), strict=False):
        if isinstance(tensor, Tensor):
            parameter = ledger.marked(tensor)
            for place in normalised:
                if source.shape[place] > 1 and not parameter.uniform:
                    ledger.trace.role(parameter, len(parameter.shape) + place, role)
                    dims[place] = ledger.tie(
                        dims[place], parameter.dims[place], f"{op} {reasons.UNKNOWN_INPUT}"
                    )
    ledger.kind = "pointwise"
    return [Marked(source.shape, dims), *beside(outputs[1:])]


def group_norm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``native_group_norm(input, weight, bias, N, C, HxW, group, eps)``: whole groups are removed, which is exact.

    Where this is not possible (one group, few groups, or groups that other operators tie), groups keep equal widths.
    """
    source, groups = ledger.marked(args[0]), int(args[6])
    statistics_end_here(ledger, op, inputs)
    channels = source.dims[1]
    for tensor, role in zip(args[1:3], ("scale", "shift"), strict=True):
        if isinstance(tensor, Tensor):
            channels = _affine(ledger, op, channels, ledger.marked(tensor), role)
    if channels is not None and groups == channels.size:
        ledger.trace.numbers[ledger.calls.modules[-1], "num_groups"] = channels
    elif channels is not None and not ledger.loses_groups("num_groups", channels, groups):
        ledger.ids.tie_rows(channels.reshape(groups, -1))
        ledger.ids.mark_inexact(channels, f"{op} over channels")
    ledger.kind = "pointwise"
    dims = list(source.dims)
    dims[1] = channels
    return [Marked(source.shape, dims), *beside(outputs[1:])]


def softmax(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``softmax(input, dim)``: inexact if it runs over channels."""
    source = inputs[0]
    statistics_end_here(ledger, op, inputs)
    ledger.ids.mark_inexact(source.dims[int(args[1])], f"{op} over channels")
    ledger.kind = "pointwise"
    return [Marked(source.shape, list(source.dims))]


def weight_norm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``_weight_norm_interface(v, g, dim)`` = g v / ||v||: the norm runs over every other dimension."""
    direction, magnitude = inputs[0], inputs[1]
    dim = int(args[2]) if len(args) > 2 else 0
    dims = list(direction.dims)
    for place, ids in enumerate(dims):
        if place != dim:
            ledger.ids.mark_inexact(ids, f"{op} over channels")
        elif magnitude.shape[place] > 1:
            ledger.trace.role(magnitude, place, "scale")
            dims[place] = ledger.tie(ids, magnitude.dims[place], f"{op} {reasons.UNKNOWN_INPUT}")
    if direction.tensor is not None:
        ledger.trace.role(direction, dim, "producer")
    return [Marked(direction.shape, dims), *beside(outputs[1:])]


def spectral(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``mv(weight, vector)`` and ``dot(vector, vector)``: the estimate of a spectral norm with stored vectors.

    The vectors lose the same channels as the weight; the next steps of training estimate the norm again.
    """
    if any(marked.activation for marked in inputs):
        freeze_all(ledger, inputs, f"{op} {reasons.TWO_ACTIVATIONS}")
        return plain(outputs)
    first, second = inputs
    for marked in inputs:
        if len(marked.shape) == 1:
            ledger.trace.role(marked, 0, "statistic")
    contracted = ledger.tie(
        first.dims[-1],
        second.dims[0],
        f"{op} {reasons.NORM_VECTOR}",
    )
    for ids in (contracted, *first.dims[:-1]):
        ledger.ids.mark_inexact(ids, f"{op} estimates a norm of the weight")
    return [Marked(tuple(outputs[0].shape), list(first.dims[:-1]))]


RULES: dict[str, Rule] = {
    "native_batch_norm": batch_norm,
    "_native_batch_norm_legit": batch_norm,
    "_native_batch_norm_legit_no_training": batch_norm,
    "cudnn_batch_norm": batch_norm,
    "_batch_norm_with_update": batch_norm,
    "_batch_norm_no_update": batch_norm,
    "native_layer_norm": layer_norm,
    "_fused_rms_norm": layer_norm,
    "native_group_norm": group_norm,
    "_softmax": softmax,
    "_safe_softmax": softmax,
    "_log_softmax": softmax,
    "_weight_norm_interface": weight_norm,
    "mv": spectral,
    "dot": spectral,
    "vdot": spectral,
}
