"""Exports a pruned network, compares the files with it, and measures sizes and times."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.resources import files as package_files
from typing import Any

import safetensors.torch
import torch
from torch import nn

from prunelab.evaluation import Compared, Target, compared, other_load
from prunelab.evaluation.turns import percentiles
from prunelab.export.capture import for_export
from prunelab.export.deploy import PACKAGES, PACKAGES_OF_OPENVINO, Deploy
from prunelab.export.int8 import Range
from prunelab.export.onnx_file import opset_of
from prunelab.export.packing import packed_state
from prunelab.records import Accuracy
from prunelab.records.deployment import DEPLOYMENT_FILE, Deployment, Percentiles, Stage
from prunelab.records.input_format import InputFormat
from prunelab.steps.deployed_files import DeploymentImages, export_one, exported_files, require_equal
from prunelab.steps.environment import hardware, versions
from prunelab.version import __version__

log = logging.getLogger(__name__)

BATCHES = (1, 64)
SECONDS = 2.0
PREDICT_FILE = "predict.py"
SCRIPTS = {"onnx": "predict.py", "openvino": "predict_openvino.py"}
"""Files of the package ``export``; they import the runtimes, which may not be installed here."""


@dataclass(frozen=True)
class Full:
    """The full network and its accuracy on the test images."""

    network: nn.Module
    accuracy: Accuracy


@dataclass(frozen=True)
class Timed:
    """One form of the network: a stage without its times. ``compared`` is for files of the pruned network only."""

    name: str
    runtime: str
    precision: str
    module: nn.Module
    bytes: int
    accuracy: Compared | Accuracy | None = None
    compared: Compared | None = None

    def stage(self, latency_ms: Mapping[int, Percentiles]) -> Stage:
        """The stage with its times."""
        return Stage(
            name=self.name,
            runtime=self.runtime,
            precision=self.precision,
            bytes=self.bytes,
            top1=None if self.accuracy is None else self.accuracy.top1,
            top5=None if self.accuracy is None else self.accuracy.top5,
            agreement=None if self.compared is None else self.compared.agreement,
            largest_difference=None if self.compared is None else self.compared.largest_difference,
            latency_ms=latency_ms,
        )


def make_deployment(
    network: nn.Module,
    form: InputFormat,
    settings: Deploy,
    images: DeploymentImages,
    full: Full | None = None,
    run_key: str | None = None,
    seconds: float = SECONDS,
) -> tuple[Deployment, dict[str, str | bytes]]:
    """The description of a deployment, and the content of every file of its folder. Nothing is written.

    Args:
        network: the pruned network.
        form: its input and the names of its classes.
        full: the full network, for comparison.
        seconds: about how long the times of each batch size are measured.

    Raises:
        UserError: the network cannot be exported, the runtime cannot run it, or the float32 file computes something
            else.
    """
    settings.require_packages()
    metadata = {**form.to_dict(), "run_key": run_key, "prunelab": __version__}
    eager = for_export(network, "fp32")
    exported, chosen = exported_files(eager, form, settings, images, metadata)
    log.info("Comparing %s with the network in PyTorch.", exported[-1].file)
    reference, *others = compared([eager, *(each.runs for each in exported)], images.test())
    for each, result in zip(exported, others, strict=True):
        require_equal(each, result, reference)
    forms = [
        *_full_forms(full, form, settings, metadata),
        Timed("pruned", "eager", "fp32", eager, weights_bytes(eager), reference),
        *(
            Timed("pruned", settings.runtime, each.precision, each.runs, each.size, result, result)
            for each, result in zip(exported, others, strict=True)
        ),
    ]
    with other_load() as load:
        times = times_in_turns([each.module for each in forms], form.image_shape, settings.threads, seconds)
    files = {name: content for each in exported for name, content in each.contents.items()}
    stages = tuple(each.stage(measured) for each, measured in zip(forms, times, strict=True))
    deployment = Deployment(
        run_key=run_key,
        network=type(network).__name__,
        settings=settings.to_dict(),
        files={name: _file_entry(content) for name, content in files.items()},
        shipped=exported[-1].file,
        input=form.to_dict(),
        opset=opset_of(files[exported[0].file]) if settings.format == "onnx" else None,
        checked_images=reference.images,
        largest_logit=reference.largest_logit,
        quantisation=_quantisation(settings, chosen),
        stages=stages,
        warnings=tuple(_warnings(settings, stages[-1], reference.images)),
        versions={**versions(), **_package_versions(settings)},
        hardware={**hardware(), "threads": settings.threads},
        other_load=load.cores,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    contents: dict[str, str | bytes] = {**files}
    if settings.format in SCRIPTS:
        contents[PREDICT_FILE] = _predict_script(SCRIPTS[settings.format], settings)
    contents[DEPLOYMENT_FILE] = deployment.to_json()
    return deployment, contents


def _full_forms(
    full: Full | None, form: InputFormat, settings: Deploy, metadata: Mapping[str, Any]
) -> list[Timed]:
    """The full network in PyTorch, and in the runtime, where it is only timed."""
    if full is None:
        return []
    eager = for_export(full.network, "fp32")
    there = export_one(eager, form, settings, "fp32", metadata)
    return [
        Timed("full", "eager", "fp32", eager, weights_bytes(eager), full.accuracy),
        Timed("full", settings.runtime, "fp32", there.runs, there.size),
    ]


def _quantisation(settings: Deploy, chosen: Range | None) -> dict[str, Any] | None:
    if chosen is None:
        return None
    return {
        "images": settings.calibration_images,
        "reduce_range": chosen.reduced,
        "reason": chosen.reason,
    }


def times_in_turns(
    networks: Sequence[nn.Module],
    image_shape: tuple[int, int, int],
    number: int,
    seconds: float,
    batches: Sequence[int] = BATCHES,
) -> list[dict[int, Percentiles]]:
    """For each network the percentiles by batch size; the networks take turns. Processor time for one thread."""
    log.info("Measuring times with %d thread(s).", number)
    target = Target(runtime="eager", threads=number)
    by_batch = {}
    for batch in batches:
        images = torch.rand(batch, *image_shape, generator=torch.Generator().manual_seed(0))
        by_batch[batch] = percentiles([partial(network, images) for network in networks], target, seconds)
    return [{batch: found[place] for batch, found in by_batch.items()} for place in range(len(networks))]


def _warnings(settings: Deploy, shipped: Stage, images: int) -> Iterator[str]:
    if shipped.agreement is not None and shipped.agreement < settings.agreement:
        yield (
            f"{shipped.precision} predicts the class of the float32 network for {shipped.agreement:.2%} of {images} "
            f"test images, less than deploy.agreement={settings.agreement:g}. More calibration images "
            "(deploy.calibration_images) or deploy.precision=fp16 may help."
        )


def weights_bytes(network: nn.Module) -> int:
    """The size of the weights as a safetensors file, where weights of one or two bits are packed."""
    return len(safetensors.torch.save(packed_state(network)[0]))


def _file_entry(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _package_versions(settings: Deploy) -> dict[str, str]:
    packages = {"onnx": PACKAGES, "openvino": PACKAGES_OF_OPENVINO}.get(settings.format, ())
    return {name: version(name) for name in packages}


def _predict_script(script: str, settings: Deploy) -> str:
    """A script of ``export`` for the file that is shipped."""
    text = package_files("prunelab.export").joinpath(script).read_text(encoding="utf-8")
    return text.replace(f'"{settings.files[0]}"', f'"{settings.files[-1]}"')
