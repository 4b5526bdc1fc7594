"""The predicted shapes of a pruned run, compared with the run operator by operator."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.tracing import reasons
from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Marked, Step, Trace

Shape = tuple[int, ...]

# Copies and ``as_strided_`` depend on the memory layout; their views differ only in name.
_COPIES = {"clone", "contiguous", "as_strided_"}
_VIEWS = {"_unsafe_view": "view", "reshape": "view", "_reshape_alias": "view"}


@dataclass(frozen=True)
class Failure:
    """The first traced operator whose result differs from the prediction."""

    step: int
    reason: str
    scaled: bool = False  # only a constant of arithmetic is different


@dataclass(frozen=True)
class Outcome:
    """What a pruned run has shown: the constants of arithmetic that differ, in order, and the failure that ended it.

    ``last``: the step at which the run was ended before that; None if it ran to the end or to a failure.
    """

    scaled: tuple[Failure, ...]
    end: Failure | None
    last: int | None = None

    def answers(self, last: int | None) -> bool:
        """Whether the run has compared all operators up to step ``last`` (None: all)."""
        return self.last is None or (last is not None and last <= self.last)

    def failure(self, known: Collection[int] = (), last: int | None = None) -> Failure | None:
        """The first difference up to step ``last``; the constants of the steps ``known`` may differ."""
        found = (each for each in self.scaled if each.step not in known)
        first = next(found, self.end)
        return None if first is None or (last is not None and first.step > last) else first


class Done(NamedTuple):
    """An operator of a pruned run: the shapes of its results, and its constant arguments (see ``Step``)."""

    op: str
    shapes: tuple[Shape, ...]
    numbers: tuple[float, ...]
    claims: tuple[int, ...]


class EndOfRun(BaseException):
    """Ends a run before its end. Not an ``Exception``, which a network could catch."""


def significant(trace: Trace) -> list[tuple[int, Step]]:
    """The steps that a pruned run must repeat, with their numbers in the trace."""
    return [(number, step) for number, step in enumerate(trace.steps) if step.op not in _COPIES]


def is_view(step: Step) -> bool:
    """Whether a step is a ``view`` or an operator that ``reshape`` calls instead."""
    return _VIEWS.get(step.op, step.op) == "view"


class Prediction:
    """Receives each operator of a pruned run and ends the run at the first whose result differs from the prediction in
    more than a constant of arithmetic.

    ``expected`` are the significant steps of the full run; ``removed`` is True for removed ids. With ``last``, the run
    also ends after that step. ``place`` counts the significant steps.
    """

    def __init__(
        self,
        expected: Sequence[tuple[int, Step]],
        removed: NDArray[np.bool_],
        last: int | None = None,
        place: int = 0,
    ) -> None:
        self.place = place
        self._expected, self._removed, self._last = expected, removed, last
        self._scaled: list[Failure] = []
        self._failure: Failure | None = None
        self._over = False
        self._left: dict[int, int] = {}

    def next(self, op: str) -> Step | None:
        """The step of the full run that corresponds to the next operator of the pruned run, if that is ``op``."""
        if self._over or self.place == len(self._expected):
            return None
        _, step = self._expected[self.place]
        return step if step.op == op else None

    def __call__(self, done: Done) -> None:
        """Compare the next operator of the pruned run."""
        if done.op in _COPIES and not self._over:
            return
        if not self._over:
            self._compare(done)
        if self._over:
            raise EndOfRun

    def ended(self, failed: str | None) -> Outcome:
        """The outcome, after the run; ``failed`` is the reason why the network raised an error, if it did."""
        end = self._failure
        if not self._over and (failed is not None or self.place < len(self._expected)):
            end = self._at_end(failed or reasons.OTHER_OPERATORS)
        return Outcome(tuple(self._scaled), end, self._last if self._over and end is None else None)

    def _compare(self, after: Done) -> None:
        if self.place == len(self._expected):
            self._failure, self._over = self._at_end(reasons.OTHER_OPERATORS), True
            return
        number, before = self._expected[self.place]
        difference = self._difference(before, after)
        if difference is not None:
            self._failure = Failure(number, difference)
        elif before.numbers != after.numbers:
            reason = f"{before.op} uses a number that is computed from the width"
            self._scaled.append(Failure(number, reason, scaled=True))
        self.place += 1
        self._over = difference is not None or (self._last is not None and number >= self._last)

    def _at_end(self, reason: str) -> Failure:
        number = self._expected[min(self.place, len(self._expected) - 1)][0] if self._expected else 0
        return Failure(number, reason)

    def _difference(self, before: Step, after: Done) -> str | None:
        if _VIEWS.get(before.op, before.op) != _VIEWS.get(after.op, after.op):
            return f"with another width the network runs {after.op} instead of {before.op}: {reasons.SAME_OPERATORS}"
        if len(before.outputs) != len(after.shapes):
            return f"with another width {before.op} returns another number of parts: {reasons.SAME_PARTS}"
        for expected, found in zip(before.outputs, after.shapes, strict=True):
            if not self._as_predicted(expected, found):
                return f"{before.op} {reasons.CONSTANT}"
        if after.claims and tuple(self._kept(claim.counted) for claim in before.claims) != after.claims:
            return f"{before.op} {reasons.POSITION}"
        return None

    def _as_predicted(self, expected: Marked, found: Shape) -> bool:
        """Whether a tensor of the pruned run has the predicted shape. Tensors that are not followed may have any, those
        of one value any width that is not known."""
        if not expected.followed:
            return True
        if len(expected.shape) != len(found):
            return expected.uniform
        return all(
            size == (before if ids is None else self._kept(ids))
            for dim, (before, ids, size) in enumerate(zip(expected.shape, expected.dims, found, strict=True))
            if dim not in expected.spread and not (expected.uniform and ids is None)
        )

    def _kept(self, ids: Ids) -> int:
        """The number of ``ids``, an array of the full run, that are not removed."""
        left = self._left.get(id(ids))
        if left is None:
            left = self._left[id(ids)] = int(ids.size - self._removed[ids].sum())
        return left
