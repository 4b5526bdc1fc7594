"""Ledger: the state of a trace that the rules read and write.

The interpreter (``trace.py``) owns one ledger and passes it to the rule of every operator.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from weakref import ref

import numpy as np
import torch
from torch import Tensor

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.calls import Calls
from prunelab.structure.tracing.ids import ChannelIds, Ids
from prunelab.structure.tracing.marks import Claim, Dims, Marked, Place, Term, Trace


class _Marks:
    """The marks of tensors, by weak reference.

    (``torch.utils.weak.WeakIdKeyDictionary`` does the same and takes ten times as long.)
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[ref[Tensor], Marked]] = {}

    def get(self, tensor: Tensor) -> Marked | None:
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:  # the id may be that of an earlier tensor
            return None
        return known[1]

    def __setitem__(self, tensor: Tensor, marked: Marked) -> None:
        self._known[id(tensor)] = ref(tensor), marked


class Ledger:
    """The marks of all tensors of one run, and the trace that grows with every operator.

    Args:
        tensors: (name, tensor) of each parameter and buffer, the objects that the run uses.
        values: name of an integer buffer -> its real content.
        calls: the Python-level calls of the run.
        carry: for a view that splits a channel dimension, the part that carries the channels, counted from the right (0
            is the last).
        kernels: names of convolution weights; their dimensions from 2 on carry no channels.
        group_wise: paths of the modules that lose whole groups of channels.
        earlier: the trace of a run of the same network in another mode; this run continues it.

    Attributes:
        claims: of the running operator.
        kind: of the results of the running operator (see ``Marked.kind``).
    """

    def __init__(
        self,
        tensors: Iterable[tuple[str, Tensor]],
        values: Callable[[str], Tensor],
        calls: Calls,
        carry: Mapping[Place, int] | None = None,
        kernels: Collection[str] = (),
        group_wise: Collection[str] = (),
        earlier: Trace | None = None,
    ) -> None:
        self.trace = Trace() if earlier is None else earlier.continued()
        born = {(origin.tensor, origin.dim): origin.ids for origin in self.ids.origins}
        self.values = values
        self.calls = calls
        self.carry = dict(carry or {})
        self.group_wise = frozenset(group_wise)
        self.claims: list[Claim] = []
        self.kind = "other"
        self._marked = _Marks()
        for name, tensor in tensors:
            if self._marked.get(tensor) is None:
                dims: Dims = [
                    self._of_dimension(name, dim, size, born)
                    if size > 1 and (dim < 2 or name not in kernels)
                    else None
                    for dim, size in enumerate(tensor.shape)
                ]
                self._marked[tensor] = Marked(tuple(tensor.shape), dims, kind="weight", tensor=name)

    def _of_dimension(self, name: str, dim: int, size: int, born: Mapping[tuple[str, int], Ids]) -> Ids:
        known = born.get((name, dim))
        return self.ids.for_dimension(name, dim, size) if known is None else known

    def begin(self) -> None:
        """The next operator starts."""
        self.claims, self.kind = [], "other"
        self.ids.module = self.calls.modules[-1]

    def write(self, tensor: Tensor, marked: Marked) -> None:
        """Record the mark of an operator's output."""
        self._marked[tensor] = marked

    def found(self, tensor: Tensor) -> Marked | None:
        """The mark of ``tensor``, or None if the run has none."""
        return self._marked.get(tensor)

    @property
    def ids(self) -> ChannelIds:
        """The ids of the run."""
        return self.trace.ids

    def marked(self, tensor: Tensor) -> Marked:
        """The mark of ``tensor``; a tensor from outside the run carries no channels."""
        found = self._marked.get(tensor)
        if found is None:
            with torch._C.DisableTorchFunction():  # reading the shape must not count as a call of the network
                found = Marked(tuple(tensor.shape), [None] * tensor.dim(), activation=True, kind="source")
            self._marked[tensor] = found
        return found

    def tie(self, first: Ids | None, second: Ids | None, reason: str) -> Ids | None:
        """Tie two dimensions; if one carries no channels, the other is frozen. Returns the ids of the result."""
        if first is None or second is None:
            self.ids.freeze(first if second is None else second, reason)
            return first if second is None else second
        self.ids.tie(first, second)
        return first

    def tie_filled(self, parts: Sequence[Ids], op: str) -> None:
        """Channels of one value that ``op`` adds at several places: their numbers must be equal, because a program
        computes only the sum (``(wide - narrow) // 2`` on each side)."""
        if len({part.size for part in parts}) == 1:
            self.ids.tie_rows(np.stack(parts))
            return
        for part in parts:
            self.ids.freeze(part, f"{op} {reasons.DIFFERENT_NUMBERS}")

    def part(self, taken: Ids, of: Ids, at_position: bool = True) -> None:
        """Record that an operator takes the channels ``taken`` from a dimension with the channels ``of``.

        ``at_position``: by a position that the program computes, not by an index that a plan renumbers.
        """
        if 0 < taken.size < of.size:
            self.trace.parts.append((taken, of if at_position else taken))

    def count(self, coefficient: float, factors: tuple[Ids, ...], bias: bool = False) -> None:
        """Record a share of the network's FLOPs."""
        self.trace.terms.append(
            Term(coefficient, factors, tuple(self.calls.modules), len(self.trace.steps), bias)
        )

    def loses_groups(self, attribute: str, channels: Ids, groups: int) -> bool:
        """Whether the running module loses whole groups of ``channels``; if so, the channels of a group are tied.

        ``attribute`` of the module is the number of groups, which decreases.
        """
        module = self.calls.modules[-1]
        if module not in self.group_wise:
            return False
        rows = channels.reshape(groups, -1)
        self.ids.tie_rows(rows.T)
        self.claim(groups, rows[:, 0])
        earlier = self.trace.numbers.setdefault((module, attribute), rows[:, 0])
        self.ids.tie(earlier, rows[:, 0])  # a module that runs twice has the same number of groups both times
        return True

    def claim(self, value: int, counted: Ids) -> None:
        """Record that the constant ``value`` is the number of ``counted`` channels."""
        self.claims.append(Claim(int(value), counted))
