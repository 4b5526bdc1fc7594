"""Writes the tables of a report as LaTeX, for \\input in a paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prunelab.report import notes
from prunelab.report.aggregate import Report, Table
from prunelab.report.columns import Column, Deviations, lay_out

NEEDS = "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}. Made by prunelab-report."
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "%": r"\%",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "…": r"\dots{}",
}
BEYOND_ASCII = 0x7F
"""Characters from this code on depend on the fonts of the paper."""


def to_latex(report: Report) -> str:
    """The tables that have rows, each as a ``table*`` with the rules of booktabs, as wide as the page."""
    tables = [_table(table, number) for number, table in enumerate(report.tables, start=1) if table.rows]
    return "\n\n".join([NEEDS, *tables]) + "\n"


def escaped(text: str) -> str:
    """``text`` as LaTeX that prints it literally; characters that pdfLaTeX may not support become '?'."""
    return "".join(SPECIAL.get(each) or (each if ord(each) < BEYOND_ASCII else "?") for each in text)


def _table(table: Table, number: int) -> str:
    layout = lay_out(table, Deviations(costs=False))
    columns = layout.columns
    lines = [
        _line(_cell(column, column.cells[index]) for column in columns) for index in range(len(table.rows))
    ]
    load = [f"{line}." for line in notes.load(table)]
    caption = " ".join([f"{notes.title(table)}.", *notes.common(layout), *load])
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering",
            rf"  \caption{{{escaped(caption)}}}",
            rf"  \label{{tab:prunelab-{number}}}",
            r"  \resizebox{\textwidth}{!}{%",
            rf"  \begin{{tabular}}{{{''.join('r' if column.numeric else 'l' for column in columns)}}}",
            r"    \toprule",
            _line(map(_header, columns)),
            r"    \midrule",
            _line(_cell(column, column.baseline) for column in columns),
            *_ruled(table, lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
            r"\end{table*}",
        ]
    )


def _ruled(table: Table, lines: Sequence[str]) -> Iterable[str]:
    """The lines of the rows, with a rule before each budget."""
    budget = None
    for row, line in zip(table.rows, lines, strict=True):
        if (row.key.resource, row.key.keep) != budget:
            yield r"    \midrule"
        budget = (row.key.resource, row.key.keep)
        yield line


def _line(cells: Iterable[str]) -> str:
    return f"    {' & '.join(cells)} \\\\"


def _header(column: Column) -> str:
    side = "r" if column.numeric else "l"
    lines = r" \\ ".join(map(escaped, column.header))
    return rf"\shortstack[{side}]{{{lines}}}"


def _cell(column: Column, text: str) -> str:
    """Numbers with a real minus sign."""
    if column.numeric and text.startswith("-") and len(text) > 1:
        return f"$-${escaped(text[1:])}"
    return escaped(text)
