"""Elementwise operators: dimensions at equal positions are tied, broadcast ones are ignored."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked
from prunelab.structure.tracing.rules.common import Rule, argument, beside, plain

_ADDITIONS = {"add", "add_"}
_PRODUCTS = {"mul", "mul_"}
_PRODUCED = {"mm", "bmm", "_unsafe_view", "view"}


def pointwise(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Tie the channels of all operands, elementwise."""
    if not inputs:
        return plain(outputs)
    if op.endswith("_"):
        _mark_written(ledger, inputs[0])
    operands = [marked for marked in inputs if not marked.uniform]
    if not operands:  # uniform for any operator
        return [_uniform(out, op == "clone" and inputs[0].zero) for out in outputs]
    carried = [marked for marked in operands if marked.carries or marked.activation]
    ledger.kind = _kind(ledger, op, args, kwargs, carried)
    statistics = _normalised(ledger, op, operands)
    if op in _ADDITIONS:
        _count_bias(ledger, inputs, outputs[0])
    made = []
    for out in outputs:
        dims: Dims = [_join(ledger, op, operands, out, place) for place in range(-out.dim(), 0)]
        made.append(Marked(tuple(out.shape), dims, statistics=statistics))
    return made


def _join(ledger: Ledger, op: str, operands: list[Marked], out: Tensor, place: int) -> Any:
    """The ids of dimension ``place`` (from the right) of an elementwise result."""
    size = out.shape[place]
    if size == 1:
        return None
    present = [
        marked
        for marked in operands
        if len(marked.shape) >= -place
        and marked.shape[place] == size
        and len(marked.shape) + place not in marked.spread
    ]
    if not present:
        return None
    joined = present[0].dims[place]
    for marked in present[1:]:
        joined = ledger.tie(joined, marked.dims[place], f"{op} {reasons.UNKNOWN_INPUT}")
    return joined


def _kind(ledger: Ledger, op: str, args: Any, kwargs: Any, carried: list[Marked]) -> str:
    """The kind of an elementwise operator (see ``Marked.kind``); records shortcut sums and gates."""
    activations = [marked for marked in carried if marked.activation or marked.kind == "source"]
    if len(activations) == 2:
        first, second = activations
        if op in _ADDITIONS and argument(args, kwargs, 2, "alpha", 1) == 1:
            _note_sum(ledger, first, second)
            return "add"
        if op in _PRODUCTS:
            for gate, gated in ((first, second), (second, first)):
                if _size(gate) < _size(gated):
                    ledger.trace.gates.extend(_gating(gate, gated))
            return "mul"
    return "pointwise" if len(activations) <= 1 else "other"


def _gating(gate: Marked, gated: Marked) -> list[Any]:
    """The channels that only scale others. A tensor that is scaled by a function of itself has no gate."""
    return [
        ids
        for ids in gate.dims
        if ids is not None and not any(own is not None and np.array_equal(ids, own) for own in gated.dims)
    ]


def _note_sum(ledger: Ledger, first: Marked, second: Marked) -> None:
    """Record the channels that a sum of two activations ties (a shortcut makes a stage)."""
    for ids, others in zip(reversed(first.dims), reversed(second.dims), strict=False):
        if ids is not None and others is not None and ids.size == others.size and ids is not others:
            ledger.trace.sums.append((ids, others))


def _count_bias(ledger: Ledger, inputs: tuple[Marked, ...], out: Tensor) -> None:
    """``linear`` may run as a matrix product and an addition, which is then its bias."""
    if len(inputs) != 2 or inputs[0].made_in != ledger.calls.current or inputs[0].op not in _PRODUCED:
        return
    bias = inputs[1]
    if not bias.activation and len(bias.shape) == 1:  # a parameter, or a part of one
        ledger.trace.role(bias, 0, "bias")
        factors = () if bias.dims[0] is None else (bias.dims[0],)
        places = out.numel() // (out.shape[-1] if factors else 1)
        ledger.count(float(places), factors, bias=True)


def _normalised(ledger: Ledger, op: str, operands: list[Marked]) -> tuple[Any, ...]:
    """The statistics over channels that the result still is: one that meets the channels it was computed from is the
    statistic of a normalisation, and ends there."""
    going_on = []
    for marked in operands:
        for ids in marked.statistics:
            met = any(
                other is not marked
                and any(dim is not None and np.array_equal(dim, ids) for dim in other.dims)
                for other in operands
            )
            if met:
                ledger.ids.mark_inexact(ids, f"{op} with a statistic over channels")
            else:
                going_on.append(ids)
    return tuple(going_on)


def _mark_written(ledger: Ledger, target: Marked) -> None:
    """An in-place operator writes into ``target``: the tensors that it is a view of are no longer uniform."""
    while True:
        target.uniform = target.zero = False
        if target.kind != "transport" or not target.parents:
            return
        target = target.parents[0]


def _uniform(out: Tensor, zero: bool) -> Marked:
    return Marked(tuple(out.shape), [None] * out.dim(), uniform=True, zero=zero)


def _size(marked: Marked) -> int:
    return prod(marked.shape)


def create(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Tensors filled with one value: their width is arbitrary, until something is written into a part of them. Those
    made in the size of another tensor (``zeros_like``) then have its channels."""
    zero = (
        "zeros" in op
        or op in ("zero", "zero_")
        or (op == "full" and argument(args, kwargs, 1, "fill_value") == 0)
    )
    made = [_uniform(out, zero) for out in outputs]
    if op.endswith("_like") and inputs and not inputs[0].uniform:
        made[0].dims = list(inputs[0].dims)
    return made


def constant(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Tensors with content that depends on the position (``arange``) or is unknown (``empty``)."""
    return plain(outputs)


def identity(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """The same tensor again (clone, detach, a change of type or memory format, dropout in evaluation mode)."""
    ledger.kind = "transport"
    source = inputs[0]
    same = Marked(
        source.shape,
        list(source.dims),
        uniform=source.uniform,
        zero=source.zero,
        statistics=source.statistics,
        tensor=source.tensor,
    )
    return [same, *beside(outputs[1:])]


def like(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """A new tensor of the size of another one (``rand_like``, noise of dropout): its width follows."""
    return [Marked(tuple(outputs[0].shape), list(inputs[0].dims), kind="source")]


def refill(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Random numbers, written into a tensor or in its size."""
    if op.endswith("_"):
        _mark_written(ledger, inputs[0])
    return like(ledger, op, args, kwargs, inputs[:1], outputs)


def of_first(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """Elementwise in the first input; further inputs and outputs are temporary storage of the operator."""
    return [*pointwise(ledger, op, args, kwargs, inputs[:1], outputs[:1]), *beside(outputs[1:])]


# Elementwise operators without PyTorch's tag ``pointwise``; those of the second line have it since 2.12.
_UNTAGGED = (
    "hardswish", "hardswish_", "_prelu_kernel", "copy", "copy_",
    "celu_", "elu_", "hardsigmoid_", "hardtanh_", "leaky_relu", "leaky_relu_", "selu_",
)  # fmt: skip
_WITH_STORAGE = ("log_sigmoid_forward", "rrelu_with_noise", "rrelu_with_noise_functional")
_FILLED = (
    "zeros", "zeros_like", "new_zeros", "ones", "ones_like", "new_ones", "full", "full_like", "new_full", "zero_",
)  # fmt: skip
_NOT_FILLED = (
    "empty", "new_empty", "rand", "randn", "arange", "linspace", "scalar_tensor", "lift_fresh_copy",
)  # fmt: skip
_LIKE = ("empty_like", "rand_like", "randn_like", "randint_like")
_RANDOM = ("bernoulli", "bernoulli_", "uniform_", "normal_", "exponential_", "random_")
_SAME_AGAIN = (
    "clone", "detach", "alias", "lift_fresh", "_to_copy", "contiguous", "native_dropout", "_reshape_alias_copy",
)  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_UNTAGGED, pointwise),
    **dict.fromkeys(_WITH_STORAGE, of_first),
    **dict.fromkeys(_FILLED, create),
    **dict.fromkeys(_NOT_FILLED, constant),
    **dict.fromkeys(_LIKE, like),
    **dict.fromkeys(_RANDOM, refill),
    **dict.fromkeys(_SAME_AGAIN, identity),
}
