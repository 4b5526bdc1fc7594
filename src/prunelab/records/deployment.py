"""deployment.json: what was exported from a network, how it was checked, and what it costs. No torch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prunelab.records.fields import Fields, RecordError
from prunelab.records.own_digest import check_digest, with_digest
from prunelab.strict_json import loads_strictly

SCHEMA = 1
DEPLOYMENT_FOLDER = "deployment"
DEPLOYMENT_FILE = "deployment.json"


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds of one forward pass: the median and the 90th percentile over all measured passes."""

    p50: float
    p90: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Percentiles:
        """The percentiles of at least two passes, interpolated linearly."""
        tenths = statistics.quantiles(milliseconds, n=10, method="inclusive")
        return cls(tenths[4], tenths[8])


@dataclass(frozen=True)
class Stage:
    """The network after one stage of the work on it, in a runtime and a precision.

    Attributes:
        name: "full", "pruned", "calibrated", "recovered", "low rank" or "low rank, recovered".
        runtime: "eager" (PyTorch), "onnxruntime", "openvino", "torch.export" or "torchscript".
        precision: "fp32", "fp16", "bf16", "int8", "ternary", "binary" or "xnor".
        bytes: size of its weights (eager) or of its file.
        top1, top5: on the test images, fractions; None if it was not measured or the images have no classes.
        agreement: fraction of the checked images that this stage and the pruned network in PyTorch classify equally;
            None for networks in PyTorch and for the full network.
        largest_difference: largest difference of a logit from the pruned network's in PyTorch; None as above.
        latency_ms: batch size -> milliseconds.
        flops, params: FLOPs of one image, and parameters; None in the description of a deployment.
    """

    name: str
    runtime: str
    precision: str
    bytes: int
    top1: float | None
    top5: float | None
    agreement: float | None
    largest_difference: float | None
    latency_ms: Mapping[int, Percentiles]
    flops: int | None = None
    params: int | None = None

    @classmethod
    def from_fields(cls, fields: Fields) -> Stage:
        latency = fields.nested("latency_ms")
        try:
            times = {int(batch): latency.nested(batch) for batch in latency.names()}
        except ValueError as error:
            raise RecordError(f"latency_ms: {error}") from error
        return cls(
            name=fields.text("name"),
            runtime=fields.text("runtime"),
            precision=fields.text("precision"),
            bytes=fields.integer("bytes"),
            top1=fields.fraction_or_none("top1"),
            top5=fields.fraction_or_none("top5"),
            agreement=fields.fraction_or_none("agreement"),
            largest_difference=fields.number_or_none("largest_difference"),
            latency_ms={
                batch: Percentiles(each.number("p50"), each.number("p90")) for batch, each in times.items()
            },
            flops=_count(fields, "flops"),
            params=_count(fields, "params"),
        )


@dataclass(frozen=True)
class Deployment:
    """The content of ``deployment.json``.

    Attributes:
        run_key: of the run; None for a network that a user saved.
        network: the class of the network.
        settings: those of ``export.Deploy``.
        files: name of each file with the network -> {"bytes", "sha256"}.
        shipped: the file that ``predict.py`` and users run.
        input: how an image becomes an input, and the names of the classes (``records.InputFormat``).
        opset: version of ONNX's operators; None for other formats.
        checked_images: number of images on which agreements and differences were measured.
        largest_logit: the largest absolute logit of the pruned network on them.
        quantisation: for int8: images, "reduce_range" and its "reason"; else None.
        warnings: what a user has to know before the file is shipped; empty if nothing.
        other_load: processor cores that other processes used during the timing; None: unknown.
    """

    run_key: str | None
    network: str
    settings: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Any]]
    shipped: str
    input: Mapping[str, Any]
    opset: int | None
    checked_images: int
    largest_logit: float
    quantisation: Mapping[str, Any] | None
    stages: tuple[Stage, ...]
    warnings: tuple[str, ...]
    versions: Mapping[str, Any]
    hardware: Mapping[str, Any]
    other_load: float | None
    made: str

    @classmethod
    def from_json(cls, text: str) -> Deployment:
        """Parse and check the text of a ``deployment.json``.

        Raises RecordError, which names the first wrong field, also if a value was changed after the file was written.
        """
        try:
            values = loads_strictly(text)
        except ValueError as error:
            raise RecordError(f"not valid JSON ({error})") from error
        fields = Fields(values)
        if (schema := fields.integer("schema")) != SCHEMA:
            raise RecordError(f"schema {schema}; this version of prunelab reads schema {SCHEMA}")
        files = fields.nested("files")
        quantisation = fields.nested_or_none("quantisation")
        deployment = cls(
            run_key=fields.text_or_none("run_key"),
            network=fields.text("network"),
            settings=fields.mapping("settings"),
            files={name: files.mapping(name) for name in files.names()},
            shipped=fields.text("shipped"),
            input=fields.mapping("input"),
            opset=_count(fields, "opset"),
            checked_images=fields.integer("checked_images"),
            largest_logit=fields.number("largest_logit"),
            quantisation=None if quantisation is None else fields.mapping("quantisation"),
            stages=tuple(Stage.from_fields(each) for each in fields.nested_list("stages")),
            warnings=fields.texts("warnings"),
            versions=fields.mapping("versions"),
            hardware=fields.mapping("hardware"),
            other_load=fields.number_or_none("other_load"),
            made=fields.text("made"),
        )
        check_digest(values)
        return deployment

    def to_json(self) -> str:
        """Strict JSON: no NaN, no infinity."""
        content = with_digest({"schema": SCHEMA, **asdict(self)})
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _count(fields: Fields, name: str) -> int | None:
    """An integer; None if the field is null or missing."""
    return fields.integer(name) if fields.has(name) and fields.number_or_none(name) is not None else None
