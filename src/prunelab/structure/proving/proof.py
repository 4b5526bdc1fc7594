"""Proof by trial: pruned networks are run, and every operator must have the result that the channel ids predict.

Programs contain constants: a view to a hard-coded shape, ``x[:, :32]``, ``reshape(..., self.num_heads, ...)``. A trial
that removes a part of every group finds them: the operators must be the same, every output must have the predicted
shape, and every constant that counts channels the predicted value. (If widths may agree by chance, there are more
trials with other widths.) Only the group that fails is frozen, unless the constant can be adapted (``remedies``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from prunelab.structure.equal_counts import Pair
from prunelab.structure.groups import Partition
from prunelab.structure.proving.causes import Causes, halved
from prunelab.structure.proving.equal_widths import EqualWidths
from prunelab.structure.proving.prediction import Failure, Outcome, Prediction, significant
from prunelab.structure.proving.pruned_run import PrunedRun
from prunelab.structure.proving.remedies import LinkedAttribute, Option, Remedy, key, options, remedies
from prunelab.structure.proving.removal import Removal, Resolver, removal
from prunelab.structure.proving.step_index import StepIndex
from prunelab.structure.proving.trials import Trials, turns
from prunelab.structure.surgery.rewriting import without_source
from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Step, Trace

if TYPE_CHECKING:
    from prunelab.structure.network import Network


# Number of the trial, groups that lose channels, remedies.
_Question = tuple[int, frozenset[int], tuple[tuple[object, ...], ...]]

MANY_NEAR = 8
"""Up to so many groups of a module are tried one by one; a binary search takes about as many trials."""


def prove(
    network: Network,
    trace: Trace,
    components: Components,
    parts: Partition,
    resolver: Resolver,
    known: tuple[Remedy, ...] = (),
) -> Proven:
    """Try the removal of a part of every group, and adapt or freeze what fails."""
    proof = Proof(network, trace, components, parts, resolver, known)
    trials = range(proof.trials.count)
    while not all(proof.holds(trial) for trial in trials):  # a remedy for one trial may make another fail
        if proof.equal:
            break
    return Proven(proof.broken, proof.inexact, proof.remedies, tuple(proof.equal))


@dataclass(frozen=True)
class Proven:
    """The groups that fail in a trial, those that a factor makes inexact (number -> reason), and the remedies for the
    others: those that were known from another run, then new ones.

    ``equal``: pairs of channels that must lose the same positions. If there are any, the proof has ended there and must
    start again with these ties.
    """

    broken: dict[int, str]
    inexact: dict[int, str]
    remedies: tuple[Remedy, ...]
    equal: tuple[Pair, ...] = ()


class Proof:
    """The state of the proof: ``chosen`` groups (not failed), ``broken`` and ``inexact`` groups with their reasons,
    remedies."""

    def __init__(
        self,
        network: Network,
        trace: Trace,
        components: Components,
        parts: Partition,
        resolver: Resolver,
        known: tuple[Remedy, ...],
    ) -> None:
        self.network, self.trace, self.components, self.parts = network, trace, components, parts
        self.resolver = resolver
        self.remedies = known
        self.trial_index = 0
        self.expected = significant(trace)
        self._known: dict[_Question, Outcome] = {}
        self._newest: tuple[_Question, PrunedRun] | None = None
        self._newest_removal: tuple[tuple[int, frozenset[int]], Removal] | None = None
        self.equal: list[Pair] = []
        self.index = StepIndex(network.model, trace, components, parts)
        trusted = {number: group for number, group in enumerate(parts.groups) if group.frozen is None}
        single = [number for number, group in trusted.items() if group.size == 1]
        self.inexact: dict[int, str] = {}
        self._scaled: list[tuple[Step, set[int]]] = []
        self.broken: dict[int, str] = {
            number: f"{reasons.ALONE} (in {trusted[number].maker})" for number in single
        }
        self.chosen = trusted.keys() - single
        groups = [(number, trusted[number]) for number in sorted(self.chosen)]
        self.trials = Trials(trace, groups, turns(trace, components, parts))

    def holds(self, trial: int) -> bool:
        """Repair or freeze until nothing fails in ``trial``; True if nothing had to be changed."""
        self.trial_index = trial
        untouched = True
        while self.chosen and (failure := self.failure()) is not None:
            untouched = False
            if failure.scaled:
                self.mark_scaled(failure)
            elif not self.repair(failure):
                self.equal = self.equal_widths(failure)
                if self.equal:
                    return False
                self.freeze(failure)
        return untouched

    def failure(self) -> Failure | None:
        """The first failure without a part of all groups, else without a part of those whose removal may not change the
        constants of arithmetic."""
        failure = self.trial(self.chosen)
        if failure is None and self.inexact:
            strict = self.trial(self.chosen - self.inexact.keys(), strict=True)
            return strict if strict is not None and strict.scaled else None
        return failure

    def trial(
        self,
        chosen: Iterable[int],
        remedies: tuple[Remedy, ...] | None = None,
        last: int | None = None,
        strict: bool = False,
    ) -> Failure | None:
        """Remove a part of the chosen groups; None if the run is as predicted (up to step ``last``).

        The removed fraction differs between groups, so that no two widths agree by chance. ``strict``: constants of
        arithmetic that are known to follow a width are compared too. Such a run is not ended at ``last``: it shows all
        constants that follow the widths of these groups, which later questions are about.
        """
        wanted = frozenset(chosen)
        remedies = self.remedies if remedies is None else remedies
        asked = self._question(wanted, remedies)
        outcome = self._known.get(asked)
        if outcome is None or not outcome.answers(last):
            removal = self._removal(wanted)
            prediction = Prediction(self.expected, removal.ids, None if strict else last)
            run = PrunedRun(self.network, removal.plan(remedies))
            outcome = self._known[asked] = prediction.ended(run.run_network(prediction))
            if wanted == self.chosen:
                self._newest = asked, run
        return outcome.failure(() if strict else self.trace.scaled, last)

    def _question(self, wanted: Iterable[int], remedies: tuple[Remedy, ...]) -> _Question:
        return self.trial_index, frozenset(wanted), tuple(key(remedy) for remedy in remedies)

    def _removal(self, wanted: frozenset[int]) -> Removal:
        asked = (self.trial_index, wanted)
        if self._newest_removal is None or self._newest_removal[0] != asked:
            self._newest_removal = asked, self._removal_of(wanted)
        return self._newest_removal[1]

    def _removal_of(self, wanted: frozenset[int]) -> Removal:
        chosen = {
            number: self.trials.removed(self.trial_index, number, self.parts.groups[number].size)
            for number in wanted
        }
        return removal(self.components, self.parts, self.resolver, chosen)

    def mark_scaled(self, failure: Failure) -> None:
        """A constant of the failing operator follows the width of some groups, which are inexact: the network is valid
        for any width, but it computes another function. With ``exact`` they are frozen."""
        step, causes = self._step(failure), self._causes_as_before(failure) or self._causes(failure)
        self._scaled.append((step, causes))
        found = dict.fromkeys(causes, self._located(failure))
        if self.network.exact:
            self.broken.update((number, f"not exact: {reason}") for number, reason in found.items())
            self.chosen -= causes
            return
        self.inexact.update(found)
        self.trace.scaled.add(failure.step)

    def _causes(self, failure: Failure) -> set[int]:
        """All groups whose widths the constant at a failure follows: those at the operator or in its module, others by
        a binary search."""
        step = self._step(failure)
        near = self.index.handled(step.module)
        if len(near) > MANY_NEAR:
            near = self.index.touched(step)
        causes: set[int] = set()
        while (rest := self.chosen - self.inexact.keys() - causes) and self._scales(rest, failure):
            found = {number for number in near & rest if self._scales({number}, failure)}
            causes |= found or halved(rest, lambda part: self._scales(part, failure))
        return causes

    def _causes_as_before(self, failure: Failure) -> set[int]:
        """The groups that correspond to those found at the same operator of another module, if they are a cause. If
        there are others, a later trial shows them."""
        step = self._step(failure)
        for first, found in self._scaled:
            if any(other is step for other in self.index.alike(first)):
                expected = self.index.corresponding(step, found, first) & self.chosen - self.inexact.keys()
                return expected if expected and self._scales(expected, failure) else set()
        return set()

    def _scales(self, groups: Iterable[int], failure: Failure) -> bool:
        """Whether the removal of ``groups`` alone changes the constant at a failure."""
        return self.trial(groups, last=failure.step, strict=True) == failure

    def repair(self, failure: Failure) -> bool:
        """Adapt the width that the failing operator expects, if that helps: an integer attribute of its module, a
        hard-coded width in the source of the module, or one of each.

        The same is tried for all modules of the same class, because networks repeat modules.
        """
        may_help = self._rehearsal(failure)
        alike = list(self.index.alike(self._step(failure)))
        known = {(link.module, link.attribute) for link in self.remedies if isinstance(link, LinkedAttribute)}
        for around in (False, True) if failure.reason.startswith(reasons.RAISES) else (False,):
            step = self._in_module(self._step(failure), around)
            for option in options(self.index.module(step), step, self._widths(self._step(failure)), known):
                own = self._remedies(self._step(failure), option, around)
                others = [remedy for other in alike for remedy in self._remedies(other, option, around)]
                if not may_help([*own, *others]):
                    continue
                for new in ([*own, *others], own):
                    tried = (*self.remedies, *new)
                    again = self.trial(self.chosen, tried)
                    if again is None or again.step > failure.step:
                        self.remedies = tried
                        return True
                    if again.step == failure.step:  # no effect on earlier steps, and none here
                        break
        return False

    def _rehearsal(self, failure: Failure) -> Callable[[Sequence[Remedy]], bool]:
        """A test for remedies: whether the module of the failing operator passes that operator with them when only
        the module runs. True for all remedies if the module alone does not fail in the same way as the network."""
        module, last = self._step(failure).module, failure.step
        if self._newest is None or self._newest[0] != self._question(self.chosen, self.remedies):
            return lambda new: True
        run, removal = self._newest[1], self._removal(frozenset(self.chosen))
        place = run.place(module)
        if not module or place is None:
            return lambda new: True

        def failing(new: Sequence[Remedy]) -> Failure | None:
            prediction = Prediction(self.expected, removal.ids, last, place)
            failed = run.run_module(module, removal.plan((*self.remedies, *new)), prediction)
            return prediction.ended(failed).failure(self.trace.scaled)

        if failing(()) != failure:
            return lambda new: True
        return lambda new: failing(new) is None

    def equal_widths(self, failure: Failure) -> list[Pair]:
        """The channels of the failing operator and others that must lose as many, because the program uses the width of
        the one for the other (``C = x.shape[1]; y.reshape(B, C, -1)``). [] if that is not the cause.

        The same is tried at the same operator of other modules of the same class.
        """
        step = self._step(failure)
        first = EqualWidths(self, step).found()
        if not first:
            return []
        others = [EqualWidths(self, other) for other in self.index.alike(step)]
        return [*first, *(pair for other in others if other.fails_alone() for pair in other.found())]

    def freeze(self, failure: Failure) -> None:
        """Freeze the groups that cause a failure, and those that fail in the same way in other modules of its class.

        Parts of the same channels (``x[:, :n // 2]``) are frozen together: a position between them may be right by
        chance for the widths of a trial.
        """
        step = self._step(failure)
        reason = self._located(failure)
        if "constant size" in reason and (why := without_source(self.index.module(step))) is not None:
            reason = f"{reason}; {why}"
        causes = Causes(self, step, failure.step).found()
        for number in set().union(*(self.parts.beside(cause) for cause in causes)) & self.chosen | causes:
            self.chosen.discard(number)
            self.broken[number] = reason

    def _located(self, failure: Failure) -> str:
        module = self._step(failure).module
        return f"{failure.reason} ({f'in {module}' if module else 'in the forward pass of the network'})"

    def _step(self, failure: Failure) -> Step:
        return self.trace.steps[min(failure.step, len(self.trace.steps) - 1)]

    def _widths(self, step: Step) -> list[Ids]:
        """The channel dimensions of all tensors in the Python-level call around ``step``, results first, then channels
        that are counted there."""
        steps = self.index.in_call(step)
        dims = [ids for other in steps for m in (*other.outputs, *other.inputs) for ids in m.dims]
        counted = [claim.counted for other in steps for claim in other.claims]
        return [
            ids
            for ids in (*dims, *counted)
            if ids is not None and ids.size and self.index.groups(ids) & self.chosen
        ]

    def _remedies(self, step: Step, option: Option, around: bool) -> list[Remedy]:
        place = self._in_module(step, around)
        return remedies(self.index.module(place), place, self._widths(step), option)

    @staticmethod
    def _in_module(step: Step, around: bool) -> Step:
        """``step``, or with ``around`` the same in the module around its module, which may have raised the error before
        it called that (``if channels != self.channels: raise ValueError``)."""
        module, number = step.call
        return replace(step, call=(module.rpartition(".")[0], number)) if around else step
