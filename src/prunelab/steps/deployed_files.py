"""The files of a deployment: exported, quantised, and compared with the network in PyTorch."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.evaluation import Compared, compared
from prunelab.export.deploy import Deploy
from prunelab.export.int8 import Range, quantised, weight_range
from prunelab.export.onnx_file import onnx_file
from prunelab.export.openvino_file import OpenVinoNetwork, openvino_files, quantised_files
from prunelab.export.session import OnnxNetwork
from prunelab.export.torch_file import TorchProgram, pt2_file, torchscript_file
from prunelab.records.input_format import InputFormat

log = logging.getLogger(__name__)

TOLERANCE = 1e-3
"""Largest difference of a logit between a float32 file and PyTorch, as a fraction of the largest logit (at least 1)."""

Batches = Iterable[tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class DeploymentImages:
    """Normalised images; each function returns the same images at every call.

    Attributes:
        calibration: training images (N, C, H, W), for the ranges of int8 activations.
        validation: images outside the check, by which the range of int8 weights is chosen.
        test: (images, classes) for the check; classes are None if they are not known.
    """

    calibration: Callable[[], Iterable[Tensor]]
    validation: Callable[[], Batches]
    test: Callable[[], Batches]


@dataclass(frozen=True)
class Exported:
    """A file, and the module that runs it. ``contents`` has other files too that belong to it, such as its weights."""

    file: str
    precision: str
    contents: Mapping[str, bytes]
    runs: nn.Module

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(map(len, self.contents.values()))


def exported_files(
    eager: nn.Module,
    form: InputFormat,
    settings: Deploy,
    images: DeploymentImages,
    metadata: Mapping[str, Any],
) -> tuple[list[Exported], Range | None]:
    """All files; for int8 also how its weights are quantised."""
    log.info("Exporting the network: deploy=%s, %s.", settings.format, settings.precision)
    if settings.precision != "int8":
        return [export_one(eager, form, settings, settings.precision, metadata)], None
    whole = export_one(eager, form, settings, "fp32", metadata)
    onnx = whole.contents[whole.file] if settings.format == "onnx" else _as_onnx(eager, form, settings)
    small, chosen = _int8(whole, onnx, settings, images, metadata)
    return [whole, small], chosen


def export_one(
    eager: nn.Module, form: InputFormat, settings: Deploy, precision: str, metadata: Mapping[str, Any]
) -> Exported:
    """The network as a file in a floating point format."""
    name, title = settings.files[0], f"deploy={settings.format} deploy.precision={precision}"
    if settings.format == "onnx":
        content = onnx_file(eager, form.image_shape, metadata, settings.opset, precision)
        return Exported(name, precision, {name: content}, OnnxNetwork(content, settings.threads, title))
    if settings.format == "openvino":
        contents = openvino_files(_as_onnx(eager, form, settings), name, metadata, precision == "fp16")
        return Exported(name, precision, contents, OpenVinoNetwork(contents, settings.threads))
    write = pt2_file if settings.format == "pt2" else torchscript_file
    content = write(eager, form.image_shape, metadata, precision)
    return Exported(name, precision, {name: content}, TorchProgram(content, settings.format).eval())


def _as_onnx(eager: nn.Module, form: InputFormat, settings: Deploy) -> bytes:
    return onnx_file(eager, form.image_shape, {}, settings.opset)


def _int8(
    whole: Exported, onnx: bytes, settings: Deploy, images: DeploymentImages, metadata: Mapping[str, Any]
) -> tuple[Exported, Range]:
    """The quantised file, made from the float32 network in ``onnx``.

    If it disagrees with float32 on held-out images, the other range of weights is tried too.
    """

    def made(reduced: bool) -> Exported:
        name, threads = settings.files[-1], settings.threads
        if settings.format == "openvino":
            contents = quantised_files(onnx, name, metadata, images.calibration(), reduced)
            return Exported(name, "int8", contents, OpenVinoNetwork(contents, threads))
        content = quantised(onnx, images.calibration(), reduced, metadata)
        return Exported(name, "int8", {name: content}, OnnxNetwork(content, threads))

    def agreement(candidate: Exported) -> float:
        return compared([whole.runs, candidate.runs], images.validation())[1].agreement

    log.info("Quantising it with %d calibration images.", settings.calibration_images)
    chosen = weight_range(settings.reduce_range)
    first = made(chosen.reduced)
    if settings.reduce_range != "auto" or (before := agreement(first)) >= settings.agreement:
        return first, chosen
    second = made(not chosen.reduced)
    if (after := agreement(second)) <= before:
        return first, chosen
    reason = (
        f"on images outside the check it agrees with float32 on {after:.2%}, the other range on {before:.2%}"
    )
    return second, Range(not chosen.reduced, reason)


def require_equal(each: Exported, result: Compared, reference: Compared) -> None:
    """Raise UserError if a float32 file computes other logits than the network; rounding is allowed."""
    most = TOLERANCE * max(1.0, reference.largest_logit)
    if each.precision == "fp32" and result.largest_difference > most:
        raise UserError(
            f"{each.file} does not compute what the network computes: a logit differs by "
            f"{result.largest_difference:.3g} (the largest is {reference.largest_logit:.3g}). This is a fault of the "
            "exporter. Nothing was written; try another deploy.opset, another version of torch, or deploy=pt2."
        )
