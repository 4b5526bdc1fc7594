"""Prints a report in the terminal, with as many columns as fit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from prunelab.report import notes
from prunelab.report.aggregate import Report, Table
from prunelab.report.columns import Deviations, Layout, lay_out

TIME_COLUMNS = 5
"""The ``spare`` of the columns of times: wider tables show their deviations."""


def print_report(report: Report, console: Console) -> None:
    """Print every table of the report, and the runs and files that are not in it."""
    for table in report.tables:
        console.print(Text(notes.title(table), style="bold"))
        if table.rows:
            _print_table(table, console)
        _print_lines(notes.failures(table), "red", console)
        _print_lines(notes.warnings(table), "yellow", console)
        _print_lines([*notes.flags(table), *notes.unmet(table, report)], "dim", console)
        if table.only_published:
            count = len(table.only_published)
            _print_lines([f"{count} published points have no comparable run: see table.md."], "dim", console)
        console.print()
    _print_lines(notes.unfinished(report), "yellow", console)
    _print_lines(notes.left_out(report), "red", console)
    _print_lines(notes.caption(report), "dim", console)


def _print_lines(lines: Iterable[str], style: str, console: Console) -> None:
    for line in lines:
        console.print(Text(line, style=style))


def _print_table(table: Table, console: Console) -> None:
    layouts = list(_layouts(table))
    fitting = (layout for layout in layouts if _width(_grid(table, layout), console) <= console.width)
    layout = next(fitting, layouts[-1])
    _print_lines(notes.common(layout), "", console)
    console.print(_grid(table, layout))
    shown = [column.title for column in layout.columns]
    hidden = [column.title for column in layouts[0].columns if column.title not in shown]
    if hidden:
        _print_lines([f"Columns that do not fit: {'; '.join(hidden)}. See table.md."], "dim", console)


def _width(grid: Grid, console: Console) -> int:
    """The width of the table if no cell is cut or wrapped."""
    unlimited = console.options.update(width=10_000)
    return console.measure(grid, options=unlimited).maximum


def _layouts(table: Table) -> Iterator[Layout]:
    """Layouts from the widest to the narrowest: deviations of costs and spare columns are left out before the
    deviations of times, and these before the columns of times."""
    full = lay_out(table, Deviations())
    yield full
    most = max(column.spare for column in full.columns)
    with_times = lay_out(table, Deviations(costs=False))
    yield from (_without(with_times, spare) for spare in range(most, TIME_COLUMNS - 1, -1))
    accuracies_only = lay_out(table, Deviations(costs=False, times=False))
    yield from (_without(accuracies_only, spare) for spare in range(TIME_COLUMNS, -1, -1))
    yield _without(lay_out(table, Deviations(accuracies=False, costs=False, times=False)), 0)


def _without(layout: Layout, spare: int) -> Layout:
    """The layout without the columns whose ``spare`` is larger."""
    return replace(layout, columns=tuple(column for column in layout.columns if column.spare <= spare))


def _grid(table: Table, layout: Layout) -> Grid:
    grid = Grid(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in layout.columns:
        grid.add_column(
            Text("\n".join(column.header)),
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            vertical="top",
        )
    grid.add_row(*(Text(column.baseline) for column in layout.columns), style="dim", end_section=True)
    for index in range(len(table.rows)):
        last = index + 1 == len(table.rows)
        ends_budget = not last and _budget(table, index) != _budget(table, index + 1)
        grid.add_row(*(Text(column.cells[index]) for column in layout.columns), end_section=ends_budget)
    return grid


def _budget(table: Table, index: int) -> tuple[str, float]:
    key = table.rows[index].key
    return key.resource, key.keep
