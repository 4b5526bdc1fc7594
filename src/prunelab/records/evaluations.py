"""Evaluations of a search: the candidates that it has judged, one row of search.csv each."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prunelab.records.fields import RecordError

COLUMNS = ("phase", "evaluation", "kept", "score", "best")


@dataclass(frozen=True)
class Evaluation:
    """A candidate that a search has judged.

    Attributes:
        number: counted from 1.
        kept: its cost in the resource of the budget, as a fraction of the full network's.
        score: on held-out images, higher is better.
        best: the highest score of all evaluations up to this one.
    """

    number: int
    kept: float
    score: float
    best: float


Report = Callable[[Sequence[Evaluation], int], None]
"""Receives all evaluations of a search, and how many of them it has received before."""


def no_report(evaluations: Sequence[Evaluation], earlier: int) -> None:
    """Evaluations are not reported."""


def evaluations_text(phases: Mapping[str, Sequence[Evaluation]]) -> str:
    """The content of search.csv: the evaluations of each phase, numbers with six significant digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for phase, evaluations in phases.items():
        for each in evaluations:
            writer.writerow([phase, each.number, f"{each.kept:.6g}", f"{each.score:.6g}", f"{each.best:.6g}"])
    return text.getvalue()


def parse_evaluations(text: str) -> dict[str, tuple[Evaluation, ...]]:
    """The evaluations of each phase in the text of a search.csv.

    Raises ``RecordError`` for a truncated file or one of another kind.
    """
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise RecordError(f"not a table of evaluations ({error})") from error
    if not lines or tuple(lines[0]) != COLUMNS:
        raise RecordError(f"not a table of evaluations: it should have the columns {', '.join(COLUMNS)}")
    phases: dict[str, tuple[Evaluation, ...]] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            phase, evaluation, *figures = line
            kept, score, best = map(float, figures)
            found = Evaluation(int(evaluation), kept, score, best)
        except ValueError as error:
            raise RecordError(
                f"line {number} should hold a phase and four numbers; the file may be truncated"
            ) from error
        phases[phase] = (*phases.get(phase, ()), found)
    return phases
