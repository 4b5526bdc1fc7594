"""Writes a report as Markdown, with every column and deviation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunelab.report import checklist, notes
from prunelab.report.aggregate import Report, Table
from prunelab.report.columns import Deviations, lay_out, published_change, published_flops, published_top1
from prunelab.report.quantities import Unit, one_line

CHECKLIST = 'The checklist of "What is the State of Neural Network Pruning?" (Blalock et al. 2020)'
MARKS = frozenset("\\`*[<|")


def to_markdown(report: Report) -> str:
    """The report as one Markdown page."""
    blocks = [f"# {_escaped(one_line(report.study))}"]
    for table in report.tables:
        blocks.append(f"## {_escaped(notes.title(table))}")
        blocks += _table(table) if table.rows else []
        blocks += _only_published(table)
        blocks += _list([*notes.failures(table), *notes.warnings(table), *notes.flags(table)])
    blocks += _list([*notes.unfinished(report), *notes.left_out(report)])
    blocks += map(_escaped, notes.caption(report))
    blocks += _checklist(report)
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


def _checklist(report: Report) -> list[str]:
    tables = [table for table in report.tables if table.rows]
    blocks = [f"## {_escaped(CHECKLIST)}"] if tables else []
    for table in tables:
        blocks += [f"{_escaped(notes.title(table))}:"] if len(tables) > 1 else []
        blocks += _list(notes.demands(checklist.of_table(table)))
    return [*blocks, *_list(notes.demands(checklist.of_report(report)))] if tables else []


def _only_published(table: Table) -> list[str]:
    """A table of the published points that are compared with no run."""
    points = table.only_published
    if not points:
        return []
    unit = Unit.fitting(max(point.baseline_flops for point in points))
    header = ("Method", "Top-1, % baseline", "Top-1, %", "Change, points", f"FLOPs, {unit.letter} (kept)")
    lines = [
        _line(header),
        _line(":--" if name == "Method" else "--:" for name in header),
        *(
            _line(
                (
                    one_line(point.method),
                    f"{100 * point.baseline_top1:.2f}",
                    published_top1(point),
                    published_change(point),
                    published_flops(point, unit),
                )
            )
            for point in points
        ),
    ]
    return ["Published figures without a comparable run:", "\n".join(lines)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_escaped(cell) for cell in cells) + " |"


def _list(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {_escaped(line)}" for line in lines)] if lines else []


def _escaped(text: str) -> str:
    """``text`` as Markdown that shows it literally: without cells, code, emphasis, links or HTML."""
    return "".join(f"\\{character}" if character in MARKS else character for character in text)
