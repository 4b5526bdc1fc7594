"""The stages of a run as a table: full, pruned, recovered, low rank, recovered again, exported, quantised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from prunelab.records.deployment import Deployment, Percentiles, Stage
from prunelab.records.schema import Record
from prunelab.report.quantities import Unit

EXPORTED = "exported"


def stages_of(record: Record, deployment: Deployment | None) -> tuple[Stage, ...]:
    """The stages in a record, and those that only the description of its deployment has: in other runtimes."""
    if deployment is None:
        return record.stages
    costs = {"full": record.baseline}
    exported = [
        replace(
            stage,
            name=f"full, {EXPORTED}" if stage.name == "full" else EXPORTED,
            flops=costs.get(stage.name, record.pruned).flops,
            params=costs.get(stage.name, record.pruned).params,
        )
        for stage in deployment.stages
        if stage.runtime != "eager"
    ]
    return (*record.stages, *exported)


def stage_table(stages: Sequence[Stage]) -> tuple[list[str], list[list[str]]]:
    """The headings, and the cells of each stage; columns without any content are left out."""
    batches = sorted({batch for stage in stages for batch in stage.latency_ms})
    flops, params = (
        Unit.fitting(max((getattr(stage, name) or 0 for stage in stages), default=0))
        for name in ("flops", "params")
    )
    headings = [
        "stage",
        "top-1",
        "top-5",
        "as fp32",
        "differs",
        f"FLOPs, {flops.letter}".rstrip(", "),
        f"parameters, {params.letter}".rstrip(", "),
        "size",
        *(f"batch {each}: p50 / p90" for each in batches),
    ]
    rows = [
        [
            _title(stage),
            _share(stage.top1),
            _share(stage.top5 if stage.flops is not None else None),
            _share(stage.agreement),
            "" if stage.largest_difference is None else f"{stage.largest_difference:.1g}",
            _count(stage.flops, flops),
            _count(stage.params, params),
            _size(stage.bytes),
            *(_times(stage.latency_ms.get(batch)) for batch in batches),
        ]
        for stage in stages
    ]
    shown = [place for place in range(len(headings)) if any(row[place] for row in rows)]
    return [headings[place] for place in shown], [[row[place] for place in shown] for row in rows]


def stage_lines(stages: Sequence[Stage]) -> list[str]:
    """The table as aligned text, one line for each stage under a line of headings."""
    headings, rows = stage_table(stages)
    widths = [max(len(row[place]) for row in [headings, *rows]) for place in range(len(headings))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if place else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [headings, *rows]
    ]


def _title(stage: Stage) -> str:
    precision = "" if stage.precision == "fp32" else f", {stage.precision}"
    return f"{stage.name}, {stage.runtime}{precision}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _count(value: int | None, unit: Unit) -> str:
    return "" if value is None else f"{value / unit.size:.{2 if unit.letter else 0}f}"


def _size(number: int) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.0f} KB"


def _times(times: Percentiles | None) -> str:
    return "" if times is None else f"{times.p50:.2f} / {times.p90:.2f} ms"
