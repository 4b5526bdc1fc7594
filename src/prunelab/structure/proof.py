"""Proof by trial: the pruned network is traced, and every operator must do what the channel ids foretell.

Constants hide in programs: a view to a written-out shape, ``x[:, :32]``, ``reshape(..., self.num_heads, ...)``. A
trial that removes a part of every group shows them: the traced operators must be the same, every output must have the
predicted shape and every constant that stands for channels the predicted value. A group that breaks this is frozen,
alone, unless the constant is an attribute of the module that can be set to the new width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import Partition
from prunelab.structure.ids import Components, Ids
from prunelab.structure.marks import Marked, Step, Trace
from prunelab.structure.plan import PruningPlan

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class Link:
    """An integer attribute of a module that must equal the number of kept ``ids``."""

    module: str
    attribute: str
    ids: Ids = field(repr=False)


@dataclass(frozen=True)
class _Failure:
    """The first traced operator that did not do what was foretold."""

    step: int
    reason: str


Resolver = Callable[[tuple[Link, ...]], Callable[[dict[str, tuple[int, ...]], tuple[str, ...]], PruningPlan]]


def prove(
    network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
) -> tuple[dict[int, str], tuple[Link, ...]]:
    """The groups that break the network (number -> reason), and the attributes that follow a width."""
    proof = _Proof(network, trace, components, parts, resolver)
    while proof.chosen and (failure := proof.trial(proof.chosen)) is not None:
        if not proof.repair(failure):
            proof.freeze(failure)
    return proof.broken, proof.links


class _Proof:
    """The state of the proof: groups still trusted, groups found to break the network, attributes that follow."""

    def __init__(
        self, network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
    ) -> None:
        self.network, self.trace, self.components, self.parts = network, trace, components, parts
        self.resolver = resolver
        self.links: tuple[Link, ...] = ()
        self.broken: dict[int, str] = {}
        self.chosen: set[int] = set()
        self._refused: set[tuple[str, str, int]] = set()
        self._by_module: dict[str, list[Step]] = {}
        for step in trace.steps:
            self._by_module.setdefault(step.module, []).append(step)
        for number, group in enumerate(parts.groups):
            if group.frozen is None and group.size > 1:
                self.chosen.add(number)
            elif group.frozen is None:
                self.broken[number] = "a single channel"

    def trial(self, chosen: Iterable[int], links: tuple[Link, ...] | None = None) -> _Failure | None:
        """Remove a part of the chosen groups; None if the network does what was foretold.

        Every group loses another fraction, so that no two widths agree by chance.
        """
        wanted = set(chosen)
        kept: dict[str, tuple[int, ...]] = {}
        gone = np.zeros(self.components.count, dtype=np.bool_)
        for number, group in enumerate(self.parts.groups):
            if group.frozen is not None:
                continue
            removed = np.zeros(group.size, dtype=np.bool_)
            if number in wanted:
                removed[_spread(group.size, number)] = True
            kept[group.name] = tuple(np.flatnonzero(~removed).tolist())
            gone[self.parts.members[number][removed]] = True
        plan = self.resolver(self.links if links is None else links)(kept, ())
        pruned, failed = self.network.trace_pruned(plan)
        return _compare(self.trace, pruned, gone[self.components.label], failed)

    def repair(self, failure: _Failure) -> bool:
        """Set an integer attribute of the module at the failing operator to the new width, if that helps.

        The same attribute of all modules of the same class is tried with it: networks repeat themselves.
        """
        step = self._step(failure)
        for attribute, place in self._candidates(step):
            alike = [
                link
                for other in self._alike(step)
                if (link := self._link(other, attribute, place)) is not None
            ]
            own = self._link(step, attribute, place)
            if own is None:
                continue
            for new in ([own, *alike], [own]):
                tried = (*self.links, *new)
                again = self.trial(self.chosen, tried)
                if again is None or again.step > failure.step:
                    self.links = tried
                    return True
            self._refused.add((step.module, attribute, place))
        return False

    def freeze(self, failure: _Failure) -> None:
        """Freeze the groups to blame: those at the failing operator that fail alone, else whichever half fails."""
        step = self._step(failure)
        near = self._touched(step) & self.chosen
        guilty = {number for number in near if self.trial({number}) is not None}
        if not guilty and near and self.trial(self.chosen - near) is None:
            guilty = near
        if not guilty:
            guilty = self._halved()
        similar = {
            number
            for other in self._alike(step)
            for number in (self._touched(other) & self.chosen) - guilty
            if self._same_place(number, other, guilty, step) and self.trial({number}) is not None
        }
        for number in guilty | similar:
            self.chosen.discard(number)
            self.broken[number] = failure.reason

    def _step(self, failure: _Failure) -> Step:
        return self.trace.steps[min(failure.step, len(self.trace.steps) - 1)]

    def _alike(self, step: Step) -> Iterator[Step]:
        """The same operator at the same place of other modules of the same class."""
        ordinal = self._by_module[step.module].index(step)
        kind = type(self.network.model.get_submodule(step.module))
        for module, steps in self._by_module.items():
            if module == step.module or type(self.network.model.get_submodule(module)) is not kind:
                continue
            if len(steps) > ordinal and steps[ordinal].op == step.op:
                yield steps[ordinal]

    def _widths(self, step: Step) -> list[Ids]:
        """The channel dimensions that the Python-level call around ``step`` handles, results first."""
        together = [other for other in self.trace.steps if other.call == step.call]
        marked = [m for other in together for m in (*other.outputs, *other.inputs)]
        return [
            ids
            for found in marked
            for ids in found.dims
            if ids is not None and self._groups(ids) & self.chosen
        ]

    def _candidates(self, step: Step) -> list[tuple[str, int]]:
        """(attribute, index into ``_widths``) of attributes equal to one of the widths at ``step``."""
        known = {(link.module, link.attribute) for link in self.links}
        found: dict[tuple[str, int], tuple[str, int]] = {}
        widths = self._widths(step)
        for name, value in vars(self.network.model.get_submodule(step.module)).items():
            if type(value) is not int or (step.module, name) in known:
                continue
            for place, ids in enumerate(widths):
                if ids.size == value and (step.module, name, place) not in self._refused:
                    found.setdefault((name, hash(ids.tobytes())), (name, place))
        return list(found.values())

    def _link(self, step: Step, attribute: str, place: int) -> Link | None:
        widths = self._widths(step)
        value = vars(self.network.model.get_submodule(step.module)).get(attribute)
        if place < len(widths) and type(value) is int and widths[place].size == value:
            return Link(step.module, attribute, widths[place])
        return None

    def _groups(self, ids: Ids) -> set[int]:
        return set(np.unique(self.parts.group_of[self.components.label[ids]]).tolist())

    def _touched(self, step: Step) -> set[int]:
        """The groups whose channels the operator handles."""
        arrays = [ids for marked in (*step.inputs, *step.outputs) for ids in marked.dims if ids is not None]
        return set().union(*(self._groups(ids) for ids in arrays))

    def _same_place(self, number: int, step: Step, guilty: set[int], first: Step) -> bool:
        """Whether group ``number`` stands at ``step`` where a guilty one stands at ``first``."""

        def places(group: Iterable[int], at: Step) -> set[tuple[int, int]]:
            wanted = set(group)
            return {
                (which, dim)
                for which, marked in enumerate(at.inputs)
                for dim, ids in enumerate(marked.dims)
                if ids is not None and self._groups(ids) & wanted
            }

        return bool(places({number}, step) & places(guilty, first))

    def _halved(self) -> set[int]:
        suspects = sorted(self.chosen)
        while len(suspects) > 1:
            half = len(suspects) // 2
            if self.trial(suspects[:half]) is not None:
                suspects = suspects[:half]
            elif self.trial(suspects[half:]) is not None:
                suspects = suspects[half:]
            else:  # only both halves together fail
                return set(suspects[half:])
        return set(suspects)


def _spread(size: int, number: int) -> NDArray[np.int64]:
    """Channels to remove from a group of ``size`` > 1: 15 to 65 % of them, at least one stays.

    More from the front than from the back: a position written out, counted from the end or taken as half of the width
    then differs from where the ids say it is.
    """
    fraction = 0.15 + 0.5 * ((number + 1) * 0.6180339887 % 1.0)
    count = max(1, min(round(size * fraction), size - 2))
    back = count // 3
    return np.concatenate([np.arange(count - back), np.arange(size - back, size)]).astype(np.int64)


def _compare(full: Trace, pruned: Trace, removed: NDArray[np.bool_], failed: str | None) -> _Failure | None:
    """The first difference between the pruned run and what the full run's ids foretell of it."""
    expected_steps, found_steps = _significant(full), _significant(pruned)
    for (number, before), (_, after) in zip(expected_steps, found_steps, strict=False):
        if _VIEWS.get(before.op, before.op) != _VIEWS.get(after.op, after.op):
            return _Failure(number, f"{before.op} turns into {after.op}")
        if len(before.outputs) != len(after.outputs):
            return _Failure(number, f"{before.op} into another number of parts")
        for expected, found in zip(before.outputs, after.outputs, strict=True):
            if not _foretold(expected, found, removed):
                return _Failure(number, f"{before.op} to a constant size")
        foretold = [int(claim.counted.size - removed[claim.counted].sum()) for claim in before.claims]
        if before.numbers != after.numbers:
            return _Failure(number, f"{before.op} with a number made from the width")
        actual = [claim.value for claim in after.claims]
        if actual and foretold != actual:
            return _Failure(number, f"{before.op} at a constant position")
    if failed is None and len(expected_steps) == len(found_steps):
        return None
    number = expected_steps[min(len(found_steps), len(expected_steps) - 1)][0]
    return _Failure(number, f"{failed} with a constant size" if failed else "another number of operators")


def _foretold(expected: Marked, found: Marked, removed: NDArray[np.bool_]) -> bool:
    """Whether a tensor of the pruned run has the foretold shape; what holds one value everywhere may have any."""
    if expected.uniform:
        return True
    if len(expected.shape) != len(found.shape):
        return False
    return all(
        size == (before if ids is None else int(ids.size - removed[ids].sum()))
        for dim, (before, ids, size) in enumerate(
            zip(expected.shape, expected.dims, found.shape, strict=True)
        )
        if dim not in expected.spread
    )


# A copy is made or not as the memory layout asks for it; the views that follow differ in name only.
_COPIES = {"clone", "contiguous"}
_VIEWS = {"_unsafe_view": "view", "reshape": "view", "_reshape_alias": "view"}


def _significant(trace: Trace) -> list[tuple[int, Step]]:
    """The steps that a pruned run must repeat, numbered as in the trace."""
    return [(number, step) for number, step in enumerate(trace.steps) if step.op not in _COPIES]
