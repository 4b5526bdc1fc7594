"""Functions that several rules use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ledger import Ledger
from prunelab.structure.tracing.marks import Dims, Marked

Rule = Callable[..., list[Marked]]


def plain(outputs: list[Tensor]) -> list[Marked]:
    """Outputs that carry no channels."""
    return [Marked(tuple(out.shape), [None] * out.dim()) for out in outputs]


def beside(outputs: list[Tensor]) -> list[Marked]:
    """Outputs after the first that only a backward pass uses (saved statistics): not followed."""
    return [Marked((), [], followed=False) for _ in outputs]


def rearranged(source: Marked, out: Tensor, dims: Dims) -> Marked:
    """A rearrangement of ``source``, which keeps the properties uniform, zero and statistic."""
    return Marked(
        tuple(out.shape), dims, uniform=source.uniform, zero=source.zero, statistics=source.statistics
    )


def freeze_all(ledger: Ledger, inputs: tuple[Marked, ...], reason: str) -> None:
    """Freeze every channel that enters an operator."""
    for marked in inputs:
        for ids in (*marked.dims, *marked.statistics):
            ledger.ids.freeze(ids, reason)


def unknown(
    ledger: Ledger, op: str, args: Any, kwargs: Any, inputs: tuple[Marked, ...], outputs: list[Tensor]
) -> list[Marked]:
    """An operator without a rule: nothing is assumed, so everything is frozen."""
    freeze_all(ledger, inputs, f"the operator {op} {reasons.NO_RULE}")
    return plain(outputs)


def statistics_end_here(ledger: Ledger, op: str, inputs: tuple[Marked, ...]) -> None:
    """A statistic over channels that becomes the input of another operator (spatial attention) makes them inexact."""
    for marked in inputs:
        for ids in marked.statistics:
            ledger.ids.mark_inexact(ids, f"{op} uses a statistic over channels")


def is_summed(marked: Marked) -> bool:
    """Whether ``marked`` is computed from weights, and all statistics in it are sums: in these, removed channels can be
    zero, so that a bias that is merged from several layers stays exact."""
    pending, seen = [marked], set[int]()
    while pending:
        each = pending.pop()
        known = {id(ids) for parent in each.parents for ids in parent.statistics}
        begins = any(id(ids) not in known for ids in each.statistics)
        if each.activation or (begins and each.op != "sum"):
            return False
        seen.add(id(each))
        pending += [parent for parent in each.parents if parent.statistics and id(parent) not in seen]
    return True


def argument(args: Any, kwargs: Any, position: int, name: str, default: Any = None) -> Any:
    """An operator's argument by position or name."""
    if len(args) > position:
        return args[position]
    return kwargs.get(name, default)
