"""Writes a report as CSV for other programs: raw numbers under stable column names."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping

from prunelab.report.aggregate import Report, Row, Statistics, Table
from prunelab.report.measures import MEASURES
from prunelab.report.pareto import COSTS
from prunelab.report.published import PublishedPoint
from prunelab.report.quantities import one_line
from prunelab.report.row_key import RowKey
from prunelab.report.unfinished import Intention

NAMES = (
    "status",
    "model",
    "data",
    "method",
    "levels",
    "allocation",
    "resource",
    "keep",
    "divisor",
    "recipe",
    "lowrank",
    "target",
    "precision",
    "settings",
    "seed_count",
    "seeds",
    "missing_seeds",
    "path",
    "error",
)
PUBLISHED = (
    "published_top1",
    "published_baseline_top1",
    "published_change",
    "published_change_printed",
    "published_flops",
    "published_flops_fraction",
    "published_pruned_printed",
    "published_flag",
)
FORMULA_STARTS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""A cell that begins with one of these is a formula for spreadsheet programs (OWASP, "CSV Injection"); the last four
are the full-width forms."""

COLUMNS = (
    *NAMES,
    *(f"{measure.name}_{part}" for measure in MEASURES for part in ("mean", "std")),
    *(f"front_{cost}" for cost in COSTS),
    *PUBLISHED,
)


def to_csv(report: Report) -> str:
    """One line for each row of the tables, and one for each run, file or published point that is not in them.

    ``status`` is ``finished``, ``published``, ``failed``, ``unfinished`` or ``left_out``. Accuracies and changes are
    fractions of 1, seeds are separated by spaces, ``front_...`` is 1 or 0, and unknown values are empty (such as the
    deviation of one seed).
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for line in _lines(report):
        writer.writerow({name: _cell(value) for name, value in line.items()})
    return text.getvalue()


def _cell(value: object) -> object:
    """Text as one line that spreadsheet programs do not evaluate: an apostrophe precedes a possible formula."""
    if not isinstance(value, str):
        return value
    line = one_line(value)
    return f"'{line}" if line.startswith(FORMULA_STARTS) else line


def _lines(report: Report) -> Iterator[Mapping[str, object]]:
    for table in report.tables:
        yield from (_finished(table, row) for row in table.rows)
        yield from (_only_published(table, point) for point in table.only_published)
        yield from _failed(table)
    for run in report.unfinished:
        yield {"status": "unfinished", **_intended(run.intention), "path": str(run.path)}
    for problem in report.problems:
        yield {"status": "left_out", "path": str(problem.path), "error": problem.reason}


def _finished(table: Table, row: Row) -> dict[str, object]:
    return {
        "status": "finished",
        **_key(table, row.key),
        "seed_count": len(row.seeds),
        "seeds": " ".join(map(str, row.seeds)),
        "missing_seeds": " ".join(map(str, row.missing_seeds)),
        **_numbers(row.statistics),
        **{f"front_{cost}": int(cost in row.front) for cost in COSTS},
        **(_published(row.published) if row.published else {}),
    }


def _only_published(table: Table, point: PublishedPoint) -> dict[str, object]:
    return {
        "status": "published",
        "model": table.model,
        "data": table.data,
        "method": point.method,
        **_published(point),
    }


def _published(point: PublishedPoint) -> dict[str, object]:
    values = (
        point.top1,
        point.baseline_top1,
        round(point.change, 6),
        point.printed_change,
        point.flops,
        round(point.flops_fraction, 6),
        point.printed_pruned,
        point.flag,
    )
    return dict(zip(PUBLISHED, values, strict=True))


def _failed(table: Table) -> Iterator[dict[str, object]]:
    for run in table.failed:
        yield {
            "status": "failed",
            **_key(table, RowKey.of(run.failure)),
            "seeds": str(run.failure.seed),
            "path": str(run.path),
            "error": run.failure.error,
        }


def _intended(intention: Intention | None) -> dict[str, object]:
    if intention is None:
        return {}
    return {
        "model": intention.model,
        "data": intention.data,
        "method": intention.method,
        "levels": "+".join(intention.levels),
        "resource": " ".join(intention.keep),
        "keep": " ".join(map(str, intention.keep.values())),
        "seeds": str(intention.seed),
    }


def _key(table: Table, key: RowKey) -> dict[str, object]:
    return {
        "model": table.model,
        "data": table.data,
        "method": key.method,
        "levels": "+".join(key.levels),
        "allocation": key.allocation,
        "resource": key.resource,
        "keep": key.keep,
        "divisor": key.divisor,
        "recipe": key.recipe,
        "lowrank": key.lowrank,
        "target": key.target,
        "precision": key.precision,
        "settings": key.settings,
    }


def _numbers(statistics: Statistics) -> dict[str, object]:
    known = {name: statistic for name, statistic in statistics.items() if statistic is not None}
    means = {f"{name}_mean": statistic.mean for name, statistic in known.items()}
    return means | {f"{name}_std": statistic.deviation for name, statistic in known.items()}
