"""Writes a report as Markdown, with every column and deviation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunelab.report import notes
from prunelab.report.aggregate import Report, Table
from prunelab.report.columns import Deviations, lay_out
from prunelab.report.quantities import one_line

MARKS = frozenset("\\`*[<|")


def to_markdown(report: Report) -> str:
    """The report as one Markdown page."""
    blocks = [f"# {_escaped(one_line(report.study))}"]
    for table in report.tables:
        blocks.append(f"## {_escaped(notes.title(table))}")
        blocks += _table(table) if table.rows else []
        blocks += _list([*notes.failures(table), *notes.warnings(table)])
    blocks += _list([*notes.unfinished(report), *notes.left_out(report)])
    blocks += map(_escaped, notes.caption(report))
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> list[str]:
    layout = lay_out(table, Deviations())
    lines = [
        _line(column.title for column in layout.columns),
        _line("--:" if column.numeric else ":--" for column in layout.columns),
        _line(column.baseline for column in layout.columns),
        *(_line(column.cells[index] for column in layout.columns) for index in range(len(table.rows))),
    ]
    return [*map(_escaped, notes.common(layout)), "\n".join(lines)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {_escaped(line)}" for line in lines)] if lines else []


def _escaped(text: str) -> str:
    """``text`` as Markdown that shows it: none of it starts a cell, code, emphasis, a link or HTML."""
    return "".join(f"\\{character}" if character in MARKS else character for character in text)
