"""The stage tables and the figure of the study, from ``records/``.

    python experiments/deployment/stages.py

Writes stages.md, a table of stages for each run, and latency.png: accuracy against the latency of the exported files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from prunelab.report import aggregate, read_study
from prunelab.report.aggregate import Row, Table
from prunelab.report.columns import budget_text
from prunelab.report.stages import stage_table, stages_of
from prunelab.report.targets import Point, targets_of

FOLDER = Path(__file__).parent
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ON = "onnxruntime on cpu, file, batch 1,"
"""The beginning of the name of the target that the figure shows."""

COLOURS = ("C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9")


def label(row: Row) -> str:
    """The budget, allocation and low rank of a row."""
    key = row.key
    return ", ".join(part for part in (key.method, budget_text(key), key.allocation, key.lowrank) if part)


def tables_of(table: Table) -> str:
    """The stage tables of a network in Markdown."""
    parts = [f"## {table.model} on {table.data}"]
    for letter, row in zip(LETTERS, table.rows, strict=False):
        parts.append(f"### {letter}: {label(row)}")
        for run in row.runs:
            record = run.record
            measured = [("Latency budget", record.latency), ("Low rank", record.lowrank_latency)]
            parts += [f"{name}: {summary}." for name, summary in measured if summary is not None]
            headings, rows = stage_table(stages_of(record, run.deployment))
            parts.append("\n".join([_line(headings), _line(["---"] * len(headings)), *map(_line, rows)]))
            parts += list(run.deployment.warnings) if run.deployment else []
    return "\n\n".join(parts)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def draw(table: Table, axis: plt.Axes) -> None:
    """Accuracy against latency of the exported files: filled float32, hollow int8, dotted the front."""
    found = targets_of([row.runs for row in table.rows])
    points = next((each for name, each in found.items() if name.startswith(ON)), ())
    for number, row in enumerate(table.rows):
        own = [point for point in points if point.row == number]
        colour = COLOURS[number % len(COLOURS)]
        for point in own:
            is_low = "int8" in point.stage
            axis.plot(point.ms, 100 * point.top1, "o", color=colour, fillstyle="none" if is_low else "full")
            axis.annotate(
                LETTERS[number],
                (point.ms, 100 * point.top1),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=8,
            )
        if own:
            axis.plot([], [], "o", color=colour, label=f"{LETTERS[number]}: {label(row)}")
    for point in (each for each in points if each.row is None):
        axis.plot(point.ms, 100 * point.top1, "k*", markersize=11, label="full network, float32")
    _draw_front(axis, [point for point in points if point.on_front])
    axis.set(
        title=f"{table.model} on {table.data}",
        xlabel="ms, batch 1, onnxruntime, one thread",
        ylabel="top-1, %",
    )
    axis.set_xlim(left=0)
    axis.legend(fontsize=7, loc="best")


def _draw_front(axis: plt.Axes, front: Sequence[Point]) -> None:
    ordered = sorted(front, key=lambda point: point.ms)
    axis.step(
        [point.ms for point in ordered],
        [100 * point.top1 for point in ordered],
        "k:",
        where="post",
        linewidth=1,
    )


def read_tables() -> list[Table]:
    """The runs of each network."""
    return [table for table in aggregate(read_study(FOLDER / "records")).tables if table.rows]


def text_of(tables: Sequence[Table]) -> str:
    """The content of stages.md."""
    return "\n\n".join(["# Stages", *map(tables_of, tables)]) + "\n"


def main() -> None:
    """Write both files."""
    tables = read_tables()
    (FOLDER / "stages.md").write_text(text_of(tables), encoding="utf-8")
    figure, axes = plt.subplots(1, len(tables), figsize=(6.2 * len(tables), 4.6), squeeze=False)
    for table, axis in zip(tables, axes[0], strict=True):
        draw(table, axis)
    figure.tight_layout()
    figure.savefig(FOLDER / "latency.png", dpi=100)


if __name__ == "__main__":
    main()
