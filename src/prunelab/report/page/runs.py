"""The runs of a row, for the page: their curves, searches and stages, and the commands that repeat them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import yaml

from prunelab.report.quantities import one_line
from prunelab.report.read import FinishedRun
from prunelab.report.stages import stage_table, stages_of

AGAIN = "prunelab-again"
CURVE_DIGITS = 5


def curves_of(runs: Sequence[FinishedRun]) -> list[dict[str, Any] | None]:
    """For each run its phases with their numbers of epochs, and for each figure its value in each epoch."""
    return [_curves(run) for run in runs]


def _curves(run: FinishedRun) -> dict[str, Any] | None:
    if run.curves is None:
        return None
    phases: dict[str, int] = {}
    for epoch in run.curves:
        phases[epoch.phase] = phases.get(epoch.phase, 0) + 1
    names = dict.fromkeys(name for epoch in run.curves for name in epoch.figures)
    return {
        "phases": [[one_line(phase), count] for phase, count in phases.items()],
        "figures": {
            one_line(name): [_short(epoch.figures.get(name)) for epoch in run.curves] for name in names
        },
    }


def searches_of(runs: Sequence[FinishedRun]) -> list[dict[str, Any]]:
    """For each search its run, its phase and its evaluations: kept fractions of the budget's resource, and scores."""
    return [
        {
            "seed": run.record.seed,
            "phase": one_line(phase),
            "kept": [_short(each.kept) for each in evaluations],
            "score": [_short(each.score) for each in evaluations],
        }
        for run in runs
        for phase, evaluations in (run.search or {}).items()
    ]


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{CURVE_DIGITS}g}")


def runs_of(runs: Sequence[FinishedRun], study: str) -> dict[str, Any]:
    """The origin of each run, and the command that repeats it. The settings are those of the first run."""
    first = runs[0].record
    return {
        "runs": [_run(run, study) for run in runs],
        "settings": yaml.safe_dump(dict(first.config), sort_keys=False, allow_unicode=True),
        "versions": ", ".join(one_line(f"{name} {value}") for name, value in first.versions.items()),
        "hardware": ", ".join(one_line(f"{name} {value}") for name, value in first.hardware.items()),
    }


def _run(run: FinishedRun, study: str) -> dict[str, Any]:
    record = run.record
    revision = "unknown" if record.git.revision is None else one_line(record.git.revision)
    return {
        "seed": record.seed,
        "key": one_line(record.key),
        "top1": record.pruned.top1,
        "revision": revision + (" with changes" if record.git.dirty else ""),
        "finished": one_line(record.finished),
        "stages": _stages(run),
        "command": f"{AGAIN} {shlex.quote((PurePath(study) / run.path).as_posix())}",
    }


def _stages(run: FinishedRun) -> dict[str, Any] | None:
    """The stage table of a run; None for a record of an earlier version."""
    stages = stages_of(run.record, run.deployment)
    if not stages:
        return None
    headings, rows = stage_table(stages)
    return {"headings": headings, "rows": [[one_line(cell) for cell in row] for row in rows]}
