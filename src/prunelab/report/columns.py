"""The columns of a table as text, for all output formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prunelab.report import quantities
from prunelab.report.aggregate import Baseline, Row, Statistics, Table
from prunelab.report.measures import BATCH_SIZES
from prunelab.report.published import PublishedPoint
from prunelab.report.quantities import Unit, one_line
from prunelab.report.row_key import RowKey

RESOURCES = {"flops": "FLOPs", "params": "parameters", "latency": "latency"}
UNDER_LOAD = "*"
"""Marks times that were measured while other processes used the machine."""

FRONTS = {"flops": "F", "params": "P", "forward_ms_batch_64": "T"}
"""The letter of the front of accuracy against each cost."""


@dataclass(frozen=True)
class Column:
    """A column: the lines of its header, the cell of the baseline, and a cell for each row.

    If the terminal is too narrow, columns with the highest ``spare`` are left out first; 0 is never left out.
    """

    header: tuple[str, ...]
    baseline: str
    cells: tuple[str, ...]
    spare: int = 0
    numeric: bool = True

    @property
    def title(self) -> str:
        return " ".join(self.header)


@dataclass(frozen=True)
class Deviations:
    """The types of numbers that are written with their standard deviation over seeds."""

    accuracies: bool = True
    costs: bool = True
    times: bool = True


@dataclass(frozen=True)
class Layout:
    """The columns of a table; ``common`` contains the names that are equal in all rows and therefore have no column."""

    common: tuple[str, ...]
    columns: tuple[Column, ...]


def lay_out(table: Table, deviations: Deviations) -> Layout:
    """The columns of a table that has rows. Deviations are left out if every row has only one seed."""
    assert table.baseline is not None
    if all(len(row.seeds) == 1 for row in table.rows):
        deviations = Deviations(accuracies=False, costs=False, times=False)
    common, names = _names(table)
    columns = (
        *names,
        _seeds(table, table.baseline),
        *_accuracies(table, table.baseline, deviations.accuracies),
        *_costs(table, table.baseline, deviations.costs),
        *_times(table, table.baseline, deviations.times),
        Column(("Front",), "", tuple(map(front_text, table.rows)), 4),
        *_published(table),
    )
    return Layout(common, columns)


def budget_text(key: RowKey) -> str:
    """``50 % FLOPs``, and the width divisor if it is above 1."""
    text = share_text(key.resource, key.keep)
    return text if key.divisor <= 1 else f"{text}, multiples of {key.divisor}"


def share_text(resource: str, keep: float) -> str:
    """``50 % FLOPs``."""
    return f"{100 * keep:.4g} % {RESOURCES.get(resource, resource)}"


def front_text(row: Row) -> str:
    """``F P``: the fronts that the row is on."""
    return " ".join(letter for cost, letter in FRONTS.items() if cost in row.front)


def printed_change(point: PublishedPoint) -> str:
    """The printed change if it contradicts the accuracies: ``-0.17 printed``."""
    if point.flag != "delta" or point.printed_change is None:
        return ""
    return f"{100 * point.printed_change:+z.2f} printed"


def levels_text(key: RowKey) -> str:
    return "+".join(key.levels)


NAMES: tuple[tuple[str, Callable[[RowKey], str]], ...] = (
    ("Levels", levels_text),
    ("Allocation", lambda key: key.allocation),
    ("Budget", budget_text),
    ("Recipe", lambda key: key.recipe),
    ("Low rank", lambda key: key.lowrank),
    ("Target", lambda key: key.target),
    ("Precision", lambda key: key.precision),
    ("Settings", lambda key: key.settings),
)


def _names(table: Table) -> tuple[tuple[str, ...], list[Column]]:
    """The names that are equal in all rows, and the columns of names: the method and every name that differs."""
    common: list[str] = []
    columns = [
        Column(("Method",), "baseline", tuple(one_line(row.key.method) for row in table.rows), numeric=False)
    ]
    for header, text in NAMES:
        cells = tuple(one_line(text(row.key)) for row in table.rows)
        if len(set(cells)) > 1:
            columns.append(Column((header,), "", cells, numeric=False))
        elif cells[0]:
            common.append(f"{header.lower()} {cells[0]}")
    return tuple(common), columns


def _seeds(table: Table, baseline: Baseline) -> Column:
    cells = tuple(
        f"{len(row.seeds)} of {len(row.seeds) + len(row.missing_seeds)}"
        if row.missing_seeds
        else str(len(row.seeds))
        for row in table.rows
    )
    return Column(("Seeds",), str(len(baseline.seeds)), cells)


def _accuracies(table: Table, baseline: Baseline, deviation: bool) -> list[Column]:
    def column(header: tuple[str, ...], measure: str, of_baseline: str | None, spare: int) -> Column:
        write = quantities.points if measure.endswith("_change") else quantities.accuracy
        return Column(
            header,
            write(baseline.statistics[of_baseline], deviation) if of_baseline else "",
            tuple(write(row.statistics[measure], deviation) for row in table.rows),
            spare,
        )

    best = column(("Top-1, %", "best epoch"), "best_epoch_top1", None, 8)
    calibrated = column(("Top-1, %", "calibrated"), "calibrated_top1", None, 8)
    return [
        column(("Top-1, %", "baseline"), "baseline_top1", "baseline_top1", 9),
        column(("Top-1, %", "just pruned"), "after_pruning_top1", None, 4),
        *([calibrated] if any(row.statistics["calibrated_top1"] for row in table.rows) else []),
        column(("Top-1, %", "recovered"), "top1", "baseline_top1", 0),
        column(("Change,", "points"), "top1_change", None, 1),
        *([best] if any(row.statistics["best_epoch_top1"] for row in table.rows) else []),
        column(("Top-5, %", "recovered"), "top5", "baseline_top5", 7),
    ]


def _costs(table: Table, baseline: Baseline, deviation: bool) -> list[Column]:
    def column(name: str, measure: str, spare: int) -> Column:
        full = baseline.statistics[f"baseline_{measure}"]
        unit = Unit.fitting(full.mean if full else 0)

        def cell(statistics: Statistics) -> str:
            remaining = quantities.percentage(statistics[f"{measure}_fraction"])
            return quantities.together(quantities.count(statistics[measure], unit, deviation), remaining)

        return Column(
            (name, f"{unit.letter} (kept)" if unit.letter else "(kept)"),
            quantities.together(quantities.count(full, unit, False), "100 %"),
            tuple(cell(row.statistics) for row in table.rows),
            spare,
        )

    return [column("FLOPs,", "flops", 0), column("MACs,", "macs", 8), column("Parameters,", "params", 3)]


def _times(table: Table, baseline: Baseline, deviation: bool) -> list[Column]:
    def column(batch: int, spare: int) -> Column:
        def cell(row: Row) -> str:
            time = quantities.duration(row.statistics[f"forward_ms_batch_{batch}"], deviation)
            text = quantities.together(time, quantities.factor(row.statistics[f"speedup_batch_{batch}"]))
            return f"{text} {UNDER_LOAD}" if row.timed_under_load else text

        return Column(
            (f"Batch of {batch},", "ms (speed-up)"),
            quantities.duration(baseline.statistics[f"baseline_forward_ms_batch_{batch}"], deviation),
            tuple(map(cell, table.rows)),
            spare,
        )

    def seconds(header: tuple[str, ...], measure: str, spare: int) -> Column:
        cells = (quantities.duration(row.statistics[measure], deviation) for row in table.rows)
        return Column(header, "", tuple(cells), spare)

    one, many = BATCH_SIZES
    ratio = tuple(quantities.factor(row.statistics["flops_ratio"]) for row in table.rows)
    return [
        Column(("FLOPs", "ratio"), "", ratio, 6),
        column(one, 5),
        column(many, 2),
        seconds(("Pruning,", "s"), "score_s", 6),
        seconds(("Recovery,", "s"), "recovery_s", 8),
    ]


def _published(table: Table) -> list[Column]:
    """The columns of published figures, if any row has one."""
    points = [row.published for row in table.rows]
    if not any(points):
        return []
    unit = Unit.fitting(max(point.baseline_flops for point in points if point))

    def column(header: str, write: Callable[[PublishedPoint], str], spare: int) -> Column:
        return Column(("Published", header), "", tuple(write(each) if each else "" for each in points), spare)

    return [
        column("top-1, %", published_top1, 1),
        column("change", published_change, 3),
        column(f"FLOPs, {unit.letter} (kept)", lambda point: published_flops(point, unit), 7),
    ]


def published_top1(point: PublishedPoint) -> str:
    return f"{100 * point.top1:.2f}"


def published_change(point: PublishedPoint) -> str:
    """The computed change, and the printed one if it differs."""
    printed = printed_change(point)
    return f"{100 * point.change:+z.2f}" + (f" ({printed})" if printed else "")


def published_flops(point: PublishedPoint, unit: Unit) -> str:
    return f"{point.flops / unit.size:.2f} ({100 * point.flops_fraction:.1f} %)"
