"""Deployments of runs: whether one is there already, making one, and its table of stages. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.records import RecordError
from prunelab.records.classes import TARGET
from prunelab.records.defaults import defaults_of
from prunelab.records.deployment import DEPLOYMENT_FILE, DEPLOYMENT_FOLDER, Deployment, Percentiles, Stage

SETTINGS = "prunelab.export.Deploy"


def is_wanted(config: Mapping[str, Any]) -> bool:
    """Whether the resolved ``config`` asks for a deployment."""
    return (config.get("deploy") or {}).get("format", "none") != "none"


def present_deployment(config: Mapping[str, Any], folder: Path) -> Deployment | None:
    """The deployment in the folder of a run that was made with the settings of ``config``; None if there is none."""
    try:
        found = Deployment.from_json(
            (folder / DEPLOYMENT_FOLDER / DEPLOYMENT_FILE).read_text(encoding="utf-8")
        )
    except (OSError, RecordError, UnicodeDecodeError):
        return None
    wanted = {name: value for name, value in config["deploy"].items() if name != TARGET}
    return found if found.settings == {**defaults_of(SETTINGS), **wanted} else None


def stage_table(deployment: Deployment) -> list[str]:
    """One line for each stage under a line of headings: accuracy, agreement with float32, size, times."""
    batches = [*deployment.stages[0].latency_ms]
    heading = [
        "stage",
        "top-1",
        "as fp32",
        "differs",
        "size",
        *(f"batch {each}: p50 / p90" for each in batches),
    ]
    rows = [
        [
            _title(stage),
            _share(stage.top1),
            _share(stage.agreement),
            "" if stage.largest_difference is None else f"{stage.largest_difference:.1g}",
            _size(stage.bytes),
            *(_times(stage.latency_ms[batch]) for batch in batches),
        ]
        for stage in deployment.stages
    ]
    shown = [place for place in range(len(heading)) if any(row[place] for row in rows)]
    widths = {place: max(len(row[place]) for row in [heading, *rows]) for place in shown}
    return [
        "  "
        + "  ".join(
            row[each].rjust(widths[each]) if each else row[each].ljust(widths[each]) for each in shown
        )
        for row in [heading, *rows]
    ]


def described(deployment: Deployment, folder: Path) -> list[str]:
    """Where the deployment is, what was checked, its stages and its warnings."""
    lines = [
        f"  {folder / DEPLOYMENT_FOLDER}: {', '.join(deployment.files)}, compared with the network in PyTorch on "
        f"{deployment.checked_images} held-out images (largest logit {deployment.largest_logit:.3g})",
        *stage_table(deployment),
    ]
    if deployment.quantisation is not None:
        bits = 7 if deployment.quantisation["reduce_range"] else 8
        lines.append(f"  int8: weights of {bits} bits: {deployment.quantisation['reason']}")
    if deployment.shipped.endswith(".onnx"):
        lines.append(f"  Try it: python {folder / DEPLOYMENT_FOLDER / 'predict.py'} IMAGE")
    return [*lines, *(f"  Warning: {each}" for each in deployment.warnings)]


def _title(stage: Stage) -> str:
    precision = "" if stage.precision == "fp32" else f", {stage.precision}"
    return f"{stage.name}, {stage.runtime}{precision}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _size(number: int) -> str:
    return f"{number / 1e6:.2f} MB" if number >= 1e6 else f"{number / 1e3:.0f} KB"


def _times(times: Percentiles) -> str:
    return f"{times.p50:.2f} / {times.p90:.2f} ms"
