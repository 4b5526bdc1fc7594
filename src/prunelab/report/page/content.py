"""The content of the page, as plain data for its scripts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prunelab.report import checklist, notes
from prunelab.report.aggregate import Baseline, Report, Row, Statistics, Table
from prunelab.report.columns import Deviations, Layout, lay_out
from prunelab.report.measures import Statistic
from prunelab.report.page.runs import curves_of, runs_of, searches_of
from prunelab.report.pareto import COSTS
from prunelab.report.published import PublishedPoint
from prunelab.report.quantities import one_line
from prunelab.report.targets import targets_of

DIGITS = 6
"""Significant digits of a number in a figure."""

Plain = dict[str, Any]


def content_of(report: Report, study: str) -> Plain:
    """All data of the page; ``study`` is the folder of the records."""
    return {
        "study": one_line(report.study),
        "tables": [_table(table, report, study) for table in report.tables],
        "unfinished": notes.unfinished(report),
        "leftOut": notes.left_out(report),
        "caption": " ".join(notes.caption(report)),
    }


def _table(table: Table, report: Report, study: str) -> Plain:
    title = {"title": notes.title(table), "failures": notes.failures(table)}
    if table.baseline is None:
        return title | {"rows": []}
    layout = lay_out(table, Deviations(costs=False))
    groups = _groups(table)
    return title | {
        "common": " ".join(notes.common(layout)),
        "columns": [{"header": column.header, "numeric": column.numeric} for column in layout.columns],
        "baselineCells": [column.baseline for column in layout.columns],
        "baseline": _baseline(table.baseline),
        "rows": [_row(row, index, layout, groups, study) for index, row in enumerate(table.rows)],
        "groups": groups,
        "targets": _targets(table),
        "published": [_published(point, alone=point in table.only_published) for point in table.published],
        "warnings": notes.warnings(table),
        "flags": notes.flags(table),
        "checklist": _checked([*checklist.of_table(table), *checklist.of_report(report)]),
    }


def _row(row: Row, index: int, layout: Layout, groups: Sequence[str], study: str) -> Plain:
    names = [column.cells[index] for column in layout.columns if not column.numeric]
    return {
        "method": one_line(row.key.method),
        "label": one_line(" · ".join(filter(None, names)), 80),
        "cells": [column.cells[index] for column in layout.columns],
        "top1": _numbers(row.statistics["top1"]),
        "afterPruning": _numbers(row.statistics["after_pruning_top1"]),
        "costs": {cost: _numbers(row.statistics[cost]) for cost in COSTS},
        "front": sorted(row.front),
        "kept": _kept(row, groups),
        "curves": curves_of(row.runs),
        "searches": searches_of(row.runs),
        **runs_of(row.runs, study),
    }


def _targets(table: Table) -> list[Plain]:
    """The figures of accuracy against the latency on a target."""
    return [
        {
            "name": one_line(name, 200),
            "points": [
                [each.row, one_line(each.stage), rounded(each.ms), rounded(each.top1), each.on_front]
                for each in points
            ],
        }
        for name, points in targets_of([row.runs for row in table.rows]).items()
    ]


def _baseline(baseline: Baseline) -> Plain:
    statistics: Statistics = baseline.statistics
    return {
        "top1": _numbers(statistics["baseline_top1"]),
        "costs": {cost: _numbers(statistics[full]) for cost, full in COSTS.items()},
    }


def _numbers(statistic: Statistic | None) -> list[float | None] | None:
    """Mean and deviation, for the figures."""
    if statistic is None:
        return None
    return [rounded(statistic.mean), None if statistic.deviation is None else rounded(statistic.deviation)]


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _groups(table: Table) -> list[str]:
    """The channel groups of all runs, in the order of the network."""
    names = (name for row in table.rows for run in row.runs for name in run.record.plan.widths)
    return list(dict.fromkeys(names))


def _kept(row: Row, groups: Iterable[str]) -> list[list[float] | None]:
    """Channels before, and after as a mean over seeds, for each group."""
    plans = [run.record.plan.widths for run in row.runs]

    def widths(group: str) -> list[float] | None:
        pairs = [plan[group] for plan in plans if group in plan]
        if not pairs:
            return None
        return [pairs[0][0], rounded(sum(after for _, after in pairs) / len(pairs))]

    return [widths(group) for group in groups]


def _published(point: PublishedPoint, alone: bool) -> Plain:
    return asdict(point) | {"change": rounded(point.change), "alone": alone}


def _checked(items: Iterable[checklist.Item]) -> list[Mapping[str, Any]]:
    return [asdict(item) for item in items]
