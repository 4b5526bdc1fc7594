"""Deployments of runs: whether one is there already, and its description in words. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.records import RecordError
from prunelab.records.classes import TARGET
from prunelab.records.defaults import defaults_of
from prunelab.records.deployment import DEPLOYMENT_FILE, DEPLOYMENT_FOLDER, Deployment
from prunelab.report.stages import stage_lines

SETTINGS = "prunelab.export.Deploy"

STORED = {
    "fp16": ("onnx", "openvino", "pt2", "torchscript"),
    "bf16": ("pt2", "torchscript"),
    "int8": ("onnx", "openvino"),
}
"""Precisions of a run, and the formats of files that can have them."""


def stored_precision(name: str, form: str) -> str:
    """The number format in which a file of the format ``form`` holds a network of the precision ``name``.

    Example:
        >>> stored_precision("bf16", "pt2"), stored_precision("bf16", "onnx"), stored_precision("xnor", "pt2")
        ('bf16', 'fp32', 'fp32')
    """
    return name if form in STORED.get(name, ()) else "fp32"


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


def described(deployment: Deployment, folder: Path) -> list[str]:
    """Where the deployment is, what was checked, its stages and its warnings."""
    lines = [
        f"  {folder / DEPLOYMENT_FOLDER}: {', '.join(deployment.files)}, compared with the network in PyTorch on "
        f"{deployment.checked_images} held-out images (largest logit {deployment.largest_logit:.3g})",
        *stage_lines(deployment.stages),
    ]
    if deployment.quantisation is not None:
        bits = 7 if deployment.quantisation["reduce_range"] else 8
        lines.append(f"  int8: weights of {bits} bits: {deployment.quantisation['reason']}")
    if deployment.shipped.endswith((".onnx", ".xml")):
        lines.append(f"  Try it: python {folder / DEPLOYMENT_FOLDER / 'predict.py'} IMAGE")
    return [*lines, *(f"  Warning: {each}" for each in deployment.warnings)]
