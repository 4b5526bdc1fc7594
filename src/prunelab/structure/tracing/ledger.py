"""Ledger: what the rules of a trace read and write.

The interpreter (``trace.py``) owns one ledger and passes it to the rule of every operator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from weakref import ref

import torch
from torch import Tensor

from prunelab.structure.tracing.calls import Calls
from prunelab.structure.tracing.ids import ChannelIds, Ids
from prunelab.structure.tracing.marks import Claim, Dims, Marked, Term, Trace


class _Marks:
    """What is known of tensors, which it does not keep alive.

    (``torch.utils.weak.WeakIdKeyDictionary`` does the same, in ten times the time.)
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[Tensor], Marked]] = {}

    def get(self, tensor: Tensor) -> Marked | None:
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:  # another tensor may have had this id
            return None
        return known[1]

    def __setitem__(self, tensor: Tensor, marked: Marked) -> None:
        self._known[id(tensor)] = ref(tensor), marked


class Ledger:
    """The marks of all tensors of one run, and the trace that grows with every operator.

    Args:
        tensors: (name, tensor) of each parameter and buffer: the objects that the run uses.
        values: name of an integer buffer -> its real content.
        calls: the Python-level calls of the run.
        carry: for the n-th view that splits a channel dimension: which of its parts carries the channels, counted
            from the right (0 is the last).
        kernels: names of convolution weights; their dimensions from 2 on carry no channels.
        whole: modules that lose whole groups of channels.

    Attributes:
        claims: of the operator that is running.
        kind: of the tensors that the running operator makes (see ``Marked.kind``).
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        values: Callable[[str], Tensor],
        calls: Calls,
        carry: Mapping[int, int] | None = None,
        kernels: Collection[str] = (),
        whole: Collection[str] = (),
    ) -> None:
        self.trace = Trace()
        self.values = values
        self.calls = calls
        self.carry = dict(carry or {})
        self.whole = frozenset(whole)
        self.claims: list[Claim] = []
        self.kind = "other"
        self._marked = _Marks()
        for name, tensor in tensors:
            if self._marked.get(tensor) is None:
                dims: Dims = [
                    self.trace.ids.born(name, dim, size)
                    if size > 1 and (dim < 2 or name not in kernels)
                    else None
                    for dim, size in enumerate(tensor.shape)
                ]
                self._marked[tensor] = Marked(tuple(tensor.shape), dims, kind="weight", tensor=name)

    def begin(self) -> None:
        """The next operator starts."""
        self.claims, self.kind = [], "other"

    def write(self, tensor: Tensor, marked: Marked) -> None:
        """Record what an operator's output carries."""
        self._marked[tensor] = marked

    def found(self, tensor: Tensor) -> Marked | None:
        """The mark of ``tensor``, or None if the run has not seen it."""
        return self._marked.get(tensor)

    @property
    def ids(self) -> ChannelIds:
        """The ids of the run so far."""
        return self.trace.ids

    def marked(self, tensor: Tensor) -> Marked:
        """What is known of ``tensor``; a tensor from outside the run carries nothing."""
        found = self._marked.get(tensor)
        if found is None:
            with torch._C.DisableTorchFunction():  # looking at its shape is no call of the network
                found = Marked(tuple(tensor.shape), [None] * tensor.dim(), activation=True, kind="source")
            self._marked[tensor] = found
        return found

    def tie(self, first: Ids | None, second: Ids | None, reason: str) -> Ids | None:
        """Tie two dimensions; one that carries no channels freezes the other. Returns the ids that go on."""
        if first is None or second is None:
            self.ids.freeze(first if second is None else second, reason)
            return first if second is None else second
        self.ids.tie(first, second)
        return first

    def count(self, coefficient: float, factors: tuple[Ids, ...], bias: bool = False) -> None:
        """Note a share of the network's FLOPs."""
        self.trace.terms.append(
            Term(coefficient, factors, tuple(self.calls.modules), len(self.trace.steps), bias)
        )

    def apart(self, attribute: str, channels: Ids, groups: int) -> bool:
        """Whether the running module loses whole groups of ``channels``; if so, makes each of the groups one channel.

        ``attribute`` counts the groups and follows.
        """
        module = self.calls.modules[-1]
        if module not in self.whole:
            return False
        rows = channels.reshape(groups, -1)
        self.ids.tie_rows(rows.T)
        self.claim(groups, rows[:, 0])
        earlier = self.trace.numbers.setdefault((module, attribute), rows[:, 0])
        self.ids.tie(earlier, rows[:, 0])  # a module that runs twice has one number of groups
        return True

    def claim(self, value: int, counted: Ids) -> None:
        """Note that the constant ``value`` stands for the number of ``counted`` channels."""
        self.claims.append(Claim(int(value), counted))
