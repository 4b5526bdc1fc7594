"""Reductions: without effect on channels over places; over channels they are statistics, which are inexact."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked
from prunelab.structure.tracing.rules.common import Rule, is_summed, statistics_end_here


def reduced_dims(args: Any, kwargs: Any, rank: int, position: int) -> list[int]:
    """The reduced dimensions; all of them where the operator names none."""
    dims = args[position] if len(args) > position else kwargs.get("dim")
    if dims is None or dims == [] or isinstance(dims, bool):
        return list(range(rank))
    dims = [dims] if isinstance(dims, int) else list(dims)
    return [dim % rank for dim in dims]


def _reduce(
    ledger: Ledger,
    op: str,
    args: Any,
    kwargs: Any,
    inputs: tuple[Marked, ...],
    outputs: list[Tensor],
    position: int,
) -> list[Marked]:
    source = inputs[0]
    is_sum = op == "sum" and is_summed(source)
    if not is_sum:
        statistics_end_here(ledger, op, inputs)
    rank = len(source.shape)
    gone = reduced_dims(args, kwargs, rank, position)
    over_channels = [source.dims[dim] for dim in gone if source.dims[dim] is not None]
    statistics = tuple(ids for ids in over_channels if ids is not None) if op in _STATISTICS else ()
    statistics += source.statistics if is_sum else ()
    if op not in _STATISTICS:
        for ids in over_channels:
            ledger.ids.freeze(ids, f"{op} {reasons.REDUCES}")
    if not over_channels:
        ledger.kind = "transport"
    made = []
    for out in outputs:
        if out.dim() == rank:
            dims: Dims = [None if dim in gone else ids for dim, ids in enumerate(source.dims)]
        else:
            dims = [ids for dim, ids in enumerate(source.dims) if dim not in gone]
        made.append(Marked(tuple(out.shape), dims, statistics=statistics))
    return made


def reduce(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``op(input, dim, ...)``."""
    return _reduce(ledger, op, args, kwargs, inputs, outputs, 1)


def vector_norm(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """``linalg_vector_norm(input, ord, dim)``."""
    return _reduce(ledger, op, args, kwargs, inputs, outputs, 2)


_STATISTICS = {
    "mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "norm", "amax", "amin", "max", "min",
}  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ("mean", "sum", "var", "std", "var_mean", "std_mean", "amax", "amin", "max", "min", "prod", "any", "all",
         "argmax", "argmin", "logsumexp"),
        reduce,
    ),
    "linalg_vector_norm": vector_norm,
    "norm": vector_norm,
}  # fmt: skip
