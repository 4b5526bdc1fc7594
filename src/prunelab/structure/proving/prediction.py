"""What the channel ids predict of a pruned run, compared with the run while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.tracing.ids import Ids
from prunelab.structure.tracing.marks import Marked, Step, Trace

Shape = tuple[int, ...]

# A copy is made or not as the memory layout asks for it; the views that follow differ in name only.
_COPIES = {"clone", "contiguous"}
_VIEWS = {"_unsafe_view": "view", "reshape": "view", "_reshape_alias": "view"}


@dataclass(frozen=True)
class Failure:
    """The first traced operator that did not do what was predicted."""

    step: int
    reason: str


class Done(NamedTuple):
    """What an operator of a pruned run did: the shapes of its results, and the constants it carried (see ``Step``)."""

    op: str
    shapes: tuple[Shape, ...]
    numbers: tuple[float, ...]
    claims: tuple[int, ...]


class Enough(BaseException):
    """Ends a run of which nothing more needs to be known. No ``Exception``: no network may catch it."""


def significant(trace: Trace) -> list[tuple[int, Step]]:
    """The steps that a pruned run must repeat, numbered as in the trace."""
    return [(number, step) for number, step in enumerate(trace.steps) if step.op not in _COPIES]


def is_view(step: Step) -> bool:
    """Whether a step is a ``view`` or what ``reshape`` makes of it."""
    return _VIEWS.get(step.op, step.op) == "view"


class Prediction:
    """Sees each operator of a pruned run and ends the run at the first that does not do what was predicted.

    ``expected`` are the significant steps of the full run, ``removed`` says which ids are gone. With ``last`` the run
    also ends once that step has done what was predicted. ``place`` counts the significant steps so far.
    """

    def __init__(
        self,
        expected: Sequence[tuple[int, Step]],
        removed: NDArray[np.bool_],
        last: int | None = None,
        place: int = 0,
    ) -> None:
        self.failure: Failure | None = None
        self.place = place
        self._expected, self._removed, self._last = expected, removed, last
        self._over = False
        self._left: dict[int, int] = {}

    def next(self, op: str) -> Step | None:
        """The step of the full run that the next operator of the pruned run repeats, if that is ``op``."""
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
            raise Enough

    def ended(self, failed: str | None) -> Failure | None:
        """The first difference, once the run is over; ``failed`` names the call that raised an error."""
        if self._over or (failed is None and self.place == len(self._expected)):
            return self.failure
        return self._at_end(f"{failed} with a constant size" if failed else "another number of operators")

    def _compare(self, after: Done) -> None:
        if self.place == len(self._expected):
            self.failure, self._over = self._at_end("another number of operators"), True
            return
        number, before = self._expected[self.place]
        difference = self._difference(before, after)
        if difference is not None:
            self.failure = Failure(number, difference)
        self.place += 1
        self._over = difference is not None or (self._last is not None and number >= self._last)

    def _at_end(self, reason: str) -> Failure:
        number, _ = self._expected[min(self.place, len(self._expected) - 1)]
        return Failure(number, reason)

    def _difference(self, before: Step, after: Done) -> str | None:
        if _VIEWS.get(before.op, before.op) != _VIEWS.get(after.op, after.op):
            return f"{before.op} turns into {after.op}"
        if len(before.outputs) != len(after.shapes):
            return f"{before.op} into another number of parts"
        for expected, found in zip(before.outputs, after.shapes, strict=True):
            if not self._foretold(expected, found):
                return f"{before.op} to a constant size"
        if before.numbers != after.numbers:
            return f"{before.op} with a number made from the width"
        if after.claims and tuple(self._kept(claim.counted) for claim in before.claims) != after.claims:
            return f"{before.op} at a constant position"
        return None

    def _foretold(self, expected: Marked, found: Shape) -> bool:
        """Whether a tensor of the pruned run has the predicted shape; what holds one value everywhere may have any, and
        so may what is not followed."""
        if expected.uniform or not expected.followed:
            return True
        if len(expected.shape) != len(found):
            return False
        return all(
            size == (before if ids is None else self._kept(ids))
            for dim, (before, ids, size) in enumerate(zip(expected.shape, expected.dims, found, strict=True))
            if dim not in expected.spread
        )

    def _kept(self, ids: Ids) -> int:
        """How many of ``ids`` (an array of the full run: it lives as long as this) are not removed."""
        left = self._left.get(id(ids))
        if left is None:
            left = self._left[id(ids)] = int(ids.size - self._removed[ids].sum())
        return left
