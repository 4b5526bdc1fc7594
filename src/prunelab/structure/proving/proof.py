"""Proof by trial: the pruned network is traced, and every operator must do what the channel ids predict.

Constants hide in programs: a view to a written-out shape, ``x[:, :32]``, ``reshape(..., self.num_heads, ...)``. A
trial that removes a part of every group shows them: the traced operators must be the same, every output must have the
predicted shape and every constant that stands for channels the predicted value. (Some more trials, with other widths,
where they might agree by chance.) A group that breaks this is frozen, alone, unless a width that is written out can
follow (``remedies``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunelab.structure.groups import Partition
from prunelab.structure.plan import PruningPlan
from prunelab.structure.proving.prediction import Failure, Prediction, significant
from prunelab.structure.proving.pruned_run import PrunedRun
from prunelab.structure.proving.remedies import Link, Option, Remedy, key, options, remedies
from prunelab.structure.proving.trials import Trials
from prunelab.structure.surgery.rewriting import without_source
from prunelab.structure.tracing.calls import Call
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Step, Trace

if TYPE_CHECKING:
    from prunelab.structure.network import Network


# Which trial, groups that lose channels, remedies, the last step that is looked at.
_Question = tuple[int, frozenset[int], tuple[tuple[object, ...], ...], int | None]
PlanFor = Callable[[tuple[Remedy, ...]], PruningPlan]
Resolver = Callable[[Mapping[str, tuple[int, ...]]], PlanFor]


def prove(
    network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
) -> tuple[dict[int, str], tuple[Remedy, ...]]:
    """The groups that break the network (number -> reason), and what must follow a width for others not to."""
    proof = _Proof(network, trace, components, parts, resolver)
    trials = range(proof.trials.count)
    while not all(proof.try_again(trial) for trial in trials):  # what mends one may break the other
        pass
    return proof.broken, proof.remedies


@dataclass(frozen=True)
class _Removal:
    """What a trial removes: which ids are gone, and the plan of it for any remedies."""

    ids: NDArray[np.bool_] = field(repr=False)
    plan: PlanFor


class _Proof:
    """The state of the proof: groups still trusted, groups found to break the network, attributes that follow."""

    def __init__(
        self, network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
    ) -> None:
        self.network, self.trace, self.components, self.parts = network, trace, components, parts
        self.resolver = resolver
        self.remedies: tuple[Remedy, ...] = ()
        self.trial_index = 0
        self._expected = significant(trace)
        self._known: dict[_Question, Failure | None] = {}
        self._newest: tuple[_Question, PrunedRun] | None = None
        self._newest_removal: tuple[tuple[int, frozenset[int]], _Removal] | None = None
        self._by_module: dict[str, list[Step]] = {}
        self._by_call: dict[Call, list[Step]] = {}
        self._numbers = {id(step): number for number, step in enumerate(trace.steps)}
        self._groups_by_ids: dict[int, frozenset[int]] = {}
        for step in trace.steps:
            self._by_module.setdefault(step.module, []).append(step)
            self._by_call.setdefault(step.call, []).append(step)
        trusted = {number: group for number, group in enumerate(parts.groups) if group.frozen is None}
        single = [number for number, group in trusted.items() if group.size == 1]
        self.broken: dict[int, str] = dict.fromkeys(single, "a single channel")
        self.chosen = trusted.keys() - single
        self.trials = Trials(trace, [(number, trusted[number]) for number in sorted(self.chosen)])

    def try_again(self, trial: int) -> bool:
        """Repair or freeze until nothing fails with the channels that ``trial`` removes; True if nothing had to be."""
        self.trial_index = trial
        untouched = True
        while self.chosen and (failure := self.trial(self.chosen)) is not None:
            untouched = False
            if not self.repair(failure):
                self.freeze(failure)
        return untouched

    def trial(
        self, chosen: Iterable[int], remedies: tuple[Remedy, ...] | None = None, last: int | None = None
    ) -> Failure | None:
        """Remove a part of the chosen groups; None if the network does what was predicted (up to step ``last``).

        Every group loses another fraction, so that no two widths agree by chance.
        """
        wanted = frozenset(chosen)
        remedies = self.remedies if remedies is None else remedies
        asked = self._question(wanted, remedies, last)
        if asked not in self._known:
            removal = self._removal(wanted)
            prediction = Prediction(self._expected, removal.ids, last)
            run = PrunedRun(self.network, removal.plan(remedies))
            self._known[asked] = prediction.ended(run.whole(prediction))
            self._newest = asked, run
        return self._known[asked]

    def _question(
        self, wanted: Iterable[int], remedies: tuple[Remedy, ...], last: int | None = None
    ) -> _Question:
        return self.trial_index, frozenset(wanted), tuple(key(remedy) for remedy in remedies), last

    def _removal(self, wanted: frozenset[int]) -> _Removal:
        asked = (self.trial_index, wanted)
        if self._newest_removal is None or self._newest_removal[0] != asked:
            self._newest_removal = asked, self._removal_of(wanted)
        return self._newest_removal[1]

    def _removal_of(self, wanted: frozenset[int]) -> _Removal:
        kept: dict[str, tuple[int, ...]] = {}
        gone = np.zeros(self.components.count, dtype=np.bool_)
        for number, group in enumerate(self.parts.groups):
            if group.frozen is not None:
                continue
            removed = np.zeros(group.size, dtype=np.bool_)
            if number in wanted:
                removed[self.trials.removed(self.trial_index, number, group.size)] = True
            kept[group.name] = tuple(np.flatnonzero(~removed).tolist())
            gone[self.parts.members[number][removed]] = True
        return _Removal(gone[self.components.label], self.resolver(kept))

    def repair(self, failure: Failure) -> bool:
        """Let the width that the failing operator expects follow, if that helps: an integer attribute of its module, a
        width in the source of the module, or one of each.

        The same is tried for all modules of the same class: networks repeat themselves.
        """
        step = self._step(failure)
        may_help = self._rehearsal(failure)
        alike = list(self._alike(step))
        known = {(link.module, link.attribute) for link in self.remedies if isinstance(link, Link)}
        for option in options(self._module(step), step, self._widths(step), known):
            own = self._remedies(step, option)
            others = [remedy for other in alike for remedy in self._remedies(other, option)]
            if not may_help([*own, *others]):
                continue
            for new in ([*own, *others], own):
                tried = (*self.remedies, *new)
                again = self.trial(self.chosen, tried)
                if again is None or again.step > failure.step:
                    self.remedies = tried
                    return True
                if again.step == failure.step:  # the others do no harm before it, and this one does not help
                    break
        return False

    def _rehearsal(self, failure: Failure) -> Callable[[Sequence[Remedy]], bool]:
        """Which new remedies may help: those with which the module that the failing operator runs in, run again alone,
        gets past it. Of any it may be so where the module alone does not fail as the network did."""
        module, last = self._step(failure).module, failure.step
        if self._newest is None or self._newest[0] != self._question(self.chosen, self.remedies):
            return lambda new: True
        run, removal = self._newest[1], self._removal(frozenset(self.chosen))
        place = run.place(module)
        if not module or place is None:
            return lambda new: True

        def failing(new: Sequence[Remedy]) -> Failure | None:
            prediction = Prediction(self._expected, removal.ids, last, place)
            return prediction.ended(run.again(module, removal.plan((*self.remedies, *new)), prediction))

        if failing(()) != failure:
            return lambda new: True
        return lambda new: failing(new) is None

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
        reason = failure.reason
        if "constant size" in reason and (why := without_source(self._module(step))) is not None:
            reason = f"{reason} ({why})"
        for number in guilty | similar:
            self.chosen.discard(number)
            self.broken[number] = reason

    def _step(self, failure: Failure) -> Step:
        return self.trace.steps[min(failure.step, len(self.trace.steps) - 1)]

    def _alike(self, step: Step) -> Iterator[Step]:
        """The same operator at the same place of other modules of the same class."""
        ordinal = self._by_module[step.module].index(step)
        kind = type(self._module(step))
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

    def _remedies(self, step: Step, option: Option) -> list[Remedy]:
        return remedies(self._module(step), step, self._widths(step), option)

    def _module(self, step: Step) -> nn.Module:
        return self.network.model.get_submodule(step.module)

    def _groups(self, ids: Ids) -> frozenset[int]:
        """The groups of ``ids``, an array of the trace: it lives as long as this."""
        found = self._groups_by_ids.get(id(ids))
        if found is None:
            found = frozenset(self.parts.group_of[self.components.label[ids]].tolist())
            self._groups_by_ids[id(ids)] = found
        return found

    def _touched(self, step: Step) -> set[int]:
        """The groups whose channels the operator handles."""
        arrays = [ids for marked in (*step.inputs, *step.outputs) for ids in marked.dims if ids is not None]
        return set().union(*(self._groups(ids) for ids in arrays))

    def _handled(self, module: str) -> set[int]:
        """The groups whose channels the operators of a module handle."""
        return set().union(*(self._touched(step) for step in self._by_module[module]))

    def _places(self, module: str) -> dict[tuple[int, int, int], frozenset[int]]:
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
