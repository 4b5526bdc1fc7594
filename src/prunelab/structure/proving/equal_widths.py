"""Widths that must be equal: the program uses the number of some channels where it handles others.

``B, N, C = x.shape; y = conv(...).reshape(B, C, -1)``: the convolution must lose as many channels as x. Both lose the
same positions then, as if they were added, or become members of one group (``structure.equal_counts``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from prunelab.structure.equal_counts import Pair
from prunelab.structure.groups import Partition
from prunelab.structure.proving.prediction import Failure, Prediction, is_view
from prunelab.structure.proving.pruned_run import PrunedRun
from prunelab.structure.proving.remedies import Remedy
from prunelab.structure.proving.removal import Resolver, removal
from prunelab.structure.proving.step_index import StepIndex
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Marked, Step, Trace

if TYPE_CHECKING:
    from prunelab.structure.network import Network

LARGEST_SEARCH = 8
"""How many other dimensions of a module are tried for one operator."""


class State(Protocol):
    """The state of a proof that the search reads."""

    network: Network
    trace: Trace
    components: Components
    parts: Partition
    resolver: Resolver
    index: StepIndex
    remedies: tuple[Remedy, ...]
    chosen: set[int]
    expected: list[tuple[int, Step]]

    def trial(
        self, chosen: Iterable[int], remedies: tuple[Remedy, ...] | None = None, last: int | None = None
    ) -> Failure | None:
        """The first failure up to step ``last`` without a part of the ``chosen`` groups."""


class EqualWidths:
    """The search for channels whose number the view or split ``step`` uses for its own."""

    def __init__(self, proof: State, step: Step) -> None:
        self._proof, self._step = proof, step
        self._number = proof.index.number(step)

    def found(self) -> list[Pair]:
        """Channels of the step, and channels that its module handled before, such that the step has the predicted
        result if both lose the same positions. [] if there are none."""
        own = self._own()
        for other in self._before() if own else ():
            pairs = [(ids, other) for ids in own if ids.size == other.size and not self._overlap(ids, other)]
            if pairs and self._right(pairs):
                return pairs
        return []

    def fails_alone(self) -> bool:
        """Whether the step fails if only its own channels are removed."""
        groups = frozenset().union(*(self._proof.index.groups(ids) for ids in self._own()))
        return bool(groups) and self._proof.trial(groups, last=self._number) is not None

    def _own(self) -> list[Ids]:
        """The dimensions of the results whose channels may be removed."""
        if not (is_view(self._step) or "split" in self._step.op):
            return []
        return list(self._removable(self._step.outputs))

    def _before(self) -> list[Ids]:
        """The dimensions that the module and its children have handled before, the earliest first."""
        module = self._step.module
        inside = (
            step
            for step in self._proof.trace.steps[: self._number]
            if not module or f"{step.module}.".startswith(f"{module}.")
        )
        arrays = {
            ids.tobytes(): ids for step in inside for ids in self._removable((*step.inputs, *step.outputs))
        }
        sizes = {ids.size for ids in self._own()}
        return [ids for ids in arrays.values() if ids.size in sizes][:LARGEST_SEARCH]

    def _removable(self, tensors: tuple[Marked, ...]) -> Iterator[Ids]:
        """The dimensions of activations in which each position is another channel that may be removed."""
        for ids in (ids for marked in tensors if marked.activation for ids in marked.dims):
            if ids is None or ids.size < 3 or not self._proof.index.groups(ids) <= self._proof.chosen:
                continue
            if np.unique(self._proof.components.label[ids]).size == ids.size:
                yield ids

    def _overlap(self, first: Ids, second: Ids) -> bool:
        """Whether both have channels of one group with members, or the same channels."""
        proof = self._proof
        common = proof.index.groups(first) & proof.index.groups(second)
        if any(proof.parts.groups[number].members for number in common):
            return True
        label = proof.components.label
        return bool(np.isin(label[first], label[second]).any())

    def _right(self, pairs: list[Pair]) -> bool:
        """Whether all operators up to the step have the predicted results without every third position of all pairs."""
        proof = self._proof
        label = proof.components.label
        gone = np.concatenate([label[ids[::3]] for pair in pairs for ids in pair])
        groups = frozenset().union(*(proof.index.groups(ids) for pair in pairs for ids in pair))
        members = {
            each: proof.parts.members[each].reshape(proof.parts.groups[each].size, -1) for each in groups
        }
        chosen = {each: np.flatnonzero(np.isin(found, gone).any(axis=1)) for each, found in members.items()}
        trial = removal(proof.components, proof.parts, proof.resolver, chosen)
        prediction = Prediction(proof.expected, trial.ids, self._number)
        run = PrunedRun(proof.network, trial.plan(proof.remedies))
        return prediction.ended(run.run_network(prediction)).failure(proof.trace.scaled) is None
