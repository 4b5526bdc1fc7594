"""Proof by trial: the pruned network is traced, and every operator must do what the channel ids foretell.

Constants hide in programs: a view to a written-out shape, ``x[:, :32]``, ``reshape(..., self.num_heads, ...)``. A
trial that removes a part of every group shows them: the traced operators must be the same, every output must have the
predicted shape and every constant that stands for channels the predicted value. A group that breaks this is frozen,
alone, unless the constant is an attribute of the module that can be set to the new width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.calls import Call
from prunelab.structure.foretelling import Failure, Foretelling, significant
from prunelab.structure.groups import Partition
from prunelab.structure.ids import Components, Ids
from prunelab.structure.marks import Step, Trace
from prunelab.structure.plan import PruningPlan

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class Link:
    """An integer attribute of a module that must equal the number of kept ``ids``."""

    module: str
    attribute: str
    ids: Ids = field(repr=False)


# Groups that lose channels, attributes that follow, the last step that is looked at.
_Question = tuple[frozenset[int], tuple[tuple[str, str, bytes], ...], int | None]
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
        self._expected = significant(trace)
        self._known: dict[_Question, Failure | None] = {}
        self._by_module: dict[str, list[Step]] = {}
        self._by_call: dict[Call, list[Step]] = {}
        self._numbers = {id(step): number for number, step in enumerate(trace.steps)}
        for step in trace.steps:
            self._by_module.setdefault(step.module, []).append(step)
            self._by_call.setdefault(step.call, []).append(step)
        for number, group in enumerate(parts.groups):
            if group.frozen is None and group.size > 1:
                self.chosen.add(number)
            elif group.frozen is None:
                self.broken[number] = "a single channel"

    def trial(
        self, chosen: Iterable[int], links: tuple[Link, ...] | None = None, last: int | None = None
    ) -> Failure | None:
        """Remove a part of the chosen groups; None if the network does what was foretold (up to step ``last``).

        Every group loses another fraction, so that no two widths agree by chance.
        """
        wanted = frozenset(chosen)
        links = self.links if links is None else links
        asked = (wanted, tuple((link.module, link.attribute, link.ids.tobytes()) for link in links), last)
        if asked not in self._known:
            self._known[asked] = self._tried(wanted, links, last)
        return self._known[asked]

    def _tried(self, wanted: Collection[int], links: tuple[Link, ...], last: int | None) -> Failure | None:
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
        foretelling = Foretelling(self._expected, gone[self.components.label], last)
        failed = self.network.run_pruned(self.resolver(links)(kept, ()), foretelling)
        return foretelling.ended(failed)

    def repair(self, failure: Failure) -> bool:
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
                if again.step == failure.step:  # the others do no harm before it, and this one does not help
                    break
            self._refused.add((step.module, attribute, place))
        return False

    def freeze(self, failure: Failure) -> None:
        """Freeze the groups to blame: those at the failing operator that fail alone, else whichever half fails, of
        those that the module around it handles or else of all. Nothing after the failing operator is looked at.

        Groups at the same places of other modules of the same class are tried with them.
        """
        step = self._step(failure)
        near = self._touched(step) & self.chosen
        guilty = {number for number in near if self.trial({number}, last=failure.step) is not None}
        if not guilty and near and self.trial(self.chosen - near, last=failure.step) is None:
            guilty = near
        if not guilty:
            around = self._handled(step.module) & self.chosen
            inside = bool(around) and self.trial(around, last=failure.step) is not None
            guilty = self._halved(around if inside else self.chosen, failure.step)
        similar = {
            number
            for other in self._alike(step)
            for number in self._at_same_places(other, guilty, step) - guilty
            if self.trial({number}, last=self._numbers[id(other)]) is not None
        }
        for number in guilty | similar:
            self.chosen.discard(number)
            self.broken[number] = failure.reason

    def _step(self, failure: Failure) -> Step:
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
        marked = [m for other in self._by_call[step.call] for m in (*other.outputs, *other.inputs)]
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

    def _handled(self, module: str) -> set[int]:
        """The groups whose channels the operators of a module handle."""
        return set().union(*(self._touched(step) for step in self._by_module[module]))

    def _places(self, module: str) -> dict[tuple[int, int, int], set[int]]:
        """(operator of the module, which of its inputs, dimension) -> the groups that stand there."""
        return {
            (ordinal, which, dim): self._groups(ids)
            for ordinal, step in enumerate(self._by_module[module])
            for which, marked in enumerate(step.inputs)
            for dim, ids in enumerate(marked.dims)
            if ids is not None
        }

    def _at_same_places(self, step: Step, guilty: set[int], first: Step) -> set[int]:
        """The trusted groups that stand in the module of ``step`` where guilty ones stand in that of ``first``."""
        blamed = {place for place, groups in self._places(first.module).items() if groups & guilty}
        found = (groups for place, groups in self._places(step.module).items() if place in blamed)
        return set().union(*found) & self.chosen

    def _halved(self, among: Iterable[int], last: int) -> set[int]:
        suspects = sorted(among)
        while len(suspects) > 1:
            half = len(suspects) // 2
            if self.trial(suspects[:half], last=last) is not None:
                suspects = suspects[:half]
            elif self.trial(suspects[half:], last=last) is not None:
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
