"""Progress of a search: a line in the log with the best score and the remaining time, and a row per evaluation."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from prunelab.distributed.messages import info
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.records.evaluations import Evaluation, Report

SECONDS_BETWEEN_LINES = 60.0


class Progress:
    """Logs and reports the evaluations of the search ``title``. ``planned`` is their number (None: unknown)."""

    def __init__(
        self,
        title: str,
        space: WidthSpace,
        planned: int | None,
        report: Report,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._title, self._space, self._planned, self._report = title, space, planned, report
        self._clock, self._start = clock, clock()
        self._rows: list[Evaluation] = []
        self._resumed = 0
        self._next_line = self._start + SECONDS_BETWEEN_LINES

    def resumed(self, history: Mapping[Candidate, float]) -> None:
        """Count the evaluations of an earlier process."""
        if history:
            self._add(history)
            self._resumed = len(self._rows)
            self._report(self._rows, self._resumed)
            info(f"{self._title}: resumed after {self._count()}, best score {self._rows[-1].best:.4g}.")

    def evaluated(self, history: Mapping[Candidate, float]) -> None:
        """Report the new evaluations of ``history``; a line is logged for a new best score, else once a minute."""
        earlier = len(self._rows)
        best = self._rows[-1].best if self._rows else None
        self._add(history)
        self._report(self._rows, earlier)
        if best is None or self._rows[-1].best > best or self._clock() >= self._next_line:
            self._next_line = self._clock() + SECONDS_BETWEEN_LINES
            left = self._left()
            info(
                f"{self._title}: best score {self._rows[-1].best:.4g} after {self._count()}"
                f"{'' if left is None else f', {left} left'}."
            )

    def _add(self, history: Mapping[Candidate, float]) -> None:
        for number, (candidate, score) in enumerate(history.items(), start=1):
            if number > len(self._rows):
                best = max(score, self._rows[-1].best if self._rows else score)
                kept = self._space.cost(candidate) / self._space.scale
                self._rows.append(Evaluation(number, kept, score, best))

    def _count(self) -> str:
        done = len(self._rows)
        of = "" if self._planned is None else f" of at most {max(self._planned, done)}"
        return f"{done}{of} candidates"

    def _left(self) -> str | None:
        """The remaining time at the mean speed of this process; None if the number of candidates is unknown."""
        measured = len(self._rows) - self._resumed
        if self._planned is None or not measured:
            return None
        seconds = (self._clock() - self._start) / measured * max(self._planned - len(self._rows), 0)
        return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
