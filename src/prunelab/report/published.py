"""Figures that papers report for the network of a study, for comparison with the measured ones."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from prunelab.errors import UserError
from prunelab.records.fields import RecordError
from prunelab.report.read import COPIED_RECORDS, Problem

PUBLISHED_FILE = "published.csv"
REQUIRED = ("method", "top1", "baseline_top1", "computed_flops_g", "baseline_flops_g")
SAME_NETWORK = 0.1
"""Networks of one architecture differ by at most this fraction of FLOPs (the two variants of ResNet-50: 6 %)."""

SAME_BUDGET = 0.03
"""A published point is compared with a row if the fractions of FLOPs that they keep differ by at most this."""


@dataclass(frozen=True)
class PublishedPoint:
    """The figures of one pruned network in a paper. Accuracies and changes are fractions of 1, FLOPs are counts.

    ``flops`` follows the convention of this project (2 x MAC), independent of that of the paper. ``printed_change`` and
    ``printed_pruned`` (the fraction of FLOPs) are as printed, None if they are not. ``flag`` names a figure that
    contradicts the others, and ``note`` explains it. ``choice`` is the name of the method after ``method=``, and
    ``row`` that of the file in a folder of conf/experiment that repeats this point ("" if there is none).
    """

    method: str
    family: str
    reference: str
    top1: float
    baseline_top1: float
    flops: float
    baseline_flops: float
    printed_flops: float | None
    printed_change: float | None
    printed_pruned: float | None
    flag: str
    note: str
    choice: str = ""
    row: str = ""

    @property
    def change(self) -> float:
        """Computed by subtraction; the printed change sometimes differs."""
        return self.top1 - self.baseline_top1

    @property
    def flops_fraction(self) -> float:
        return self.flops / self.baseline_flops

    def is_of(self, baseline_flops: float) -> bool:
        """Whether the full network of the paper is the one with these FLOPs."""
        return abs(self.baseline_flops / baseline_flops - 1) <= SAME_NETWORK if baseline_flops else False


@dataclass(frozen=True)
class Published:
    """The points of one file, without those of full networks, and the lines that cannot be used."""

    path: Path | None = None
    points: tuple[PublishedPoint, ...] = ()
    problems: tuple[Problem, ...] = ()


def find_published(study: Path) -> Path | None:
    """published.csv in the folder of the study, or next to it if the folder is named ``records``."""
    folder = study.resolve()
    folders = [folder, folder.parent] if folder.name == COPIED_RECORDS else [folder]
    return next((each / PUBLISHED_FILE for each in folders if (each / PUBLISHED_FILE).is_file()), None)


def read_published(path: Path) -> Published:
    """The points in the CSV file ``path``. Raises ``UserError`` if it cannot be read or lacks a column."""
    try:
        lines = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"The published points {path} cannot be read: {getattr(error, 'strerror', None) or error}."
        ) from error
    missing = [name for name in REQUIRED if not lines or name not in lines[0]]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}. Published points need: {', '.join(REQUIRED)}.")
    points, problems = [], []
    for number, line in enumerate(lines, start=2):
        try:
            points.append(_point(line))
        except RecordError as error:
            problems.append(Problem(Path(path.name), f"line {number}: {error}"))
    return Published(path, tuple(point for point in points if point.flops_fraction < 1), tuple(problems))


def beside(
    method: str, flops_fraction: float, points: Iterable[PublishedPoint], row: str | None = None
) -> PublishedPoint | None:
    """The point of this method with the most similar fraction of FLOPs, if the difference is at most SAME_BUDGET.

    If several points are of this choice of a method, the one of the ``row`` that ran comes first, then those of the
    same name: a run of ``hrank`` is compared with HRank, and with HRankPlus only if it is the row ``hrankplus_74``.
    """
    near = [
        point
        for point in points
        if _plain(method) in (_plain(point.method), _plain(point.choice))
        and abs(point.flops_fraction - flops_fraction) <= SAME_BUDGET
    ]

    def distance(point: PublishedPoint) -> tuple[bool, bool, float]:
        of_another_row = not row or point.row != row
        of_another_name = _plain(point.method) != _plain(method)
        return of_another_row, of_another_name, abs(point.flops_fraction - flops_fraction)

    return min(near, key=distance, default=None)


def _plain(name: str) -> str:
    """A name without case and punctuation: papers write SFP and DMCP, the configuration sfp and dmcp."""
    return "".join(character for character in name.casefold() if character.isalnum())


def _point(line: Mapping[str, str]) -> PublishedPoint:
    printed_flops = _number(line, "flops_g")
    printed_change = _number(line, "printed_delta")
    printed_pruned = _number(line, "pruned_percent")
    return PublishedPoint(
        method=line["method"],
        family=line.get("family") or "",
        reference=line.get("reference") or "",
        top1=_required(line, "top1") / 100,
        baseline_top1=_required(line, "baseline_top1") / 100,
        flops=_required(line, "computed_flops_g") * 1e9,
        baseline_flops=_required(line, "baseline_flops_g") * 1e9,
        printed_flops=None if printed_flops is None else printed_flops * 1e9,
        printed_change=None if printed_change is None else printed_change / 100,
        printed_pruned=None if printed_pruned is None else printed_pruned / 100,
        flag=line.get("flag") or "",
        note=line.get("note") or "",
        choice=line.get("choice") or "",
        row=line.get("row") or "",
    )


def _required(line: Mapping[str, str], name: str) -> float:
    value = _number(line, name)
    if value is None or value <= 0:
        raise RecordError(f"{name} should be a number above 0, found {line.get(name) or 'nothing'!r}")
    return value


def _number(line: Mapping[str, str], name: str) -> float | None:
    text = line.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise RecordError(f"{name} should be a number, found {text!r}")
    return value
