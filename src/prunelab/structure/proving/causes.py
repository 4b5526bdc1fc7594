"""The groups that cause a failure in a trial, and those that cause the same one in other modules of the same class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from prunelab.structure.proving.prediction import Failure
from prunelab.structure.proving.step_index import StepIndex
from prunelab.structure.tracing.marks import Step


class State(Protocol):
    """The state of a proof that the search reads."""

    index: StepIndex
    chosen: set[int]

    def trial(self, chosen: Iterable[int], *, last: int | None = None) -> Failure | None:
        """The first failure up to step ``last`` without a part of the ``chosen`` groups."""


class Causes:
    """The search for the groups that make ``step``, the step ``last`` of the trace, fail. Later operators are not
    compared."""

    def __init__(self, proof: State, step: Step, last: int) -> None:
        self._proof, self._step, self._last = proof, step, last

    def found(self) -> set[int]:
        """The groups at the step that fail alone, else those found by a binary search, first among the groups in the
        module of the step, then in the modules around it; and the corresponding groups of other modules of its class.
        """
        proof = self._proof
        near = proof.index.touched(self._step) & proof.chosen
        failing = {number for number in near if self._fails({number})}
        if not failing and near and not self._fails(proof.chosen - near):
            failing = near
        failing = failing or halved(self._around(), self._fails)
        return failing | self._similar(failing)

    def _fails(self, groups: Iterable[int]) -> bool:
        return self._proof.trial(groups, last=self._last) is not None

    def _around(self) -> set[int]:
        """The groups in the module of the step or in the smallest module around it, if they fail together; else all."""
        proof, module = self._proof, self._step.module
        nearest = [proof.index.handled(module)]
        while module:
            module = module.rpartition(".")[0]
            nearest.append(proof.index.below(module))
        for groups in nearest:
            around = groups & proof.chosen
            if around and self._fails(around):
                return around
        return set(proof.chosen)

    def _similar(self, failing: set[int]) -> set[int]:
        """The groups that fail at the same operator of other modules as the ``failing`` ones at this step.

        All are removed together, until nothing fails there. A single group that fails with the others at its operator
        is not tried alone. The search ends at a failure of another kind; the proof comes back to it.
        """
        proof = self._proof
        suspects = {
            proof.index.number(other): (proof.index.corresponding(other, failing, self._step) & proof.chosen)
            - failing
            for other in proof.index.alike(self._step)
        }
        counts = Counter(number for groups in suspects.values() for number in groups)
        last, shared = max(suspects, default=0), {number for number, count in counts.items() if count > 1}
        innocent = {number for number in shared if proof.trial({number}, last=last) is None}
        found: set[int] = set()
        while together := set().union(*suspects.values()) - innocent - found:
            failure = proof.trial(together, last=max(suspects))
            if failure is None or failure.step not in suspects:
                break
            place = failure.step
            groups = suspects.pop(place) - innocent - found
            if len(groups) != 1:
                groups = {number for number in groups if proof.trial({number}, last=place) is not None}
            found |= groups
        return found


def halved(among: Iterable[int], fails: Callable[[Iterable[int]], bool]) -> set[int]:
    """The part of ``among`` that a binary search finds to fail: a single number, or several that fail only together."""
    suspects = sorted(among)
    while len(suspects) > 1:
        half = len(suspects) // 2
        if fails(suspects[:half]):
            suspects = suspects[:half]
        elif fails(suspects[half:]):
            suspects = suspects[half:]
        else:
            return set(suspects[half:])
    return set(suspects)
