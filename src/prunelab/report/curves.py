"""Reads the curves.csv in the folder of a record: one row of figures for each epoch of the run."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

from prunelab.records.fields import RecordError

NAMES = ("phase", "epoch")


@dataclass(frozen=True)
class Epoch:
    """An epoch, counted from 1 in each phase ("learning", "round 1", "recovery"), and its figures."""

    phase: str
    epoch: int
    figures: Mapping[str, float]


def parse_curves(text: str) -> tuple[Epoch, ...]:
    """The epochs in the text of a curves.csv; figures that were not measured are left out.

    Raises ``RecordError`` for a truncated file or one of another kind.
    """
    try:
        lines = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise RecordError(f"not a table of epochs ({error})") from error
    if not lines or not set(NAMES) <= lines[0].keys():
        raise RecordError("not a table of epochs: it should have the columns phase and epoch, and a row")
    return tuple(_epoch(line, number) for number, line in enumerate(lines, start=2))


def _epoch(line: Mapping[str | None, str | None], number: int) -> Epoch:
    if None in line or None in line.values():
        raise RecordError(
            f"line {number} has another number of cells than the first; the file may be truncated"
        )
    try:
        cells = {str(name): cell for name, cell in line.items() if name not in NAMES and cell}
        figures = {name: float(cell) for name, cell in cells.items()}
        finite = {name: value for name, value in figures.items() if math.isfinite(value)}
        return Epoch(phase=line["phase"] or "", epoch=int(line["epoch"] or ""), figures=finite)
    except ValueError as error:
        raise RecordError(f"line {number} should hold numbers ({error})") from error
