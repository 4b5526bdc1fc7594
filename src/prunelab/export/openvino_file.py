"""A network as files of OpenVINO (.xml with .bin), quantised by NNCF: the second runtime."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.export.capture import first_line, quiet
from prunelab.export.onnx_file import layer_of_node

METADATA = "prunelab"
"""The name of the metadata, a JSON text, in the runtime information of a model."""

UNSUPPORTED = re.compile(r"No conversion rule found for operations: (\w+)")
"""The first unsupported operator in a message of OpenVINO, without the version of its set."""

NO_STATISTICS = {"NNCF_CI": "1"}
"""NNCF sends statistics of its use unless this variable is set when it is imported."""


def openvino_files(content: bytes, name: str, metadata: Mapping[str, Any], half: bool) -> dict[str, bytes]:
    """The files ``name`` (.xml) and the .bin file beside it.

    Args:
        content: an ONNX file in float32.
        half: store the weights as float16; OpenVINO computes in the format that the processor supports.

    Raises:
        UserError: OpenVINO has no operator for one of the network's.
    """
    return _saved(_read(content), name, metadata, half)


def quantised_files(
    content: bytes, name: str, metadata: Mapping[str, Any], batches: Iterable[Tensor], reduced: bool
) -> dict[str, bytes]:
    """The files of the network in int8, quantised by NNCF's post-training quantisation.

    Ranges of activations are their smallest and largest values, as for onnxruntime; NNCF's default, a mean over images,
    clips. Sums of two activations are not quantised: OpenVINO 2026.4 adds their result to a convolution in int8 with
    large errors, and the sums alone take no measurable time (ResNet-20 pruned on digits: 85 % of the classes of float32
    with NNCF's defaults, 98 % without quantised sums, 100 % with these ranges as well).

    Args:
        content: an ONNX file in float32.
        batches: calibration images (N, C, H, W), normalised.
        reduced: weights of 7 bits in all layers, see ``int8.weight_range``.

    Raises:
        UserError: there are no calibration images.
    """
    images = [image[None].cpu().numpy() for batch in batches for image in batch]
    if not images:
        raise UserError(
            "int8 needs training images from which the ranges of activations are measured, and there are none. Check "
            "data.root, or give prunelab-deploy a folder with --images."
        )
    nncf = _nncf()
    fix = nncf.quantization.advanced_parameters.OverflowFix
    parameters = nncf.AdvancedQuantizationParameters(
        overflow_fix=fix.ENABLE if reduced else fix.DISABLE,
        activations_range_estimator_params=nncf.quantization.range_estimator.RangeEstimatorParametersSet.MINMAX,
    )
    with quiet(), redirect_stdout(io.StringIO()):  # NNCF draws progress bars
        model = nncf.quantize(
            _read(content),
            nncf.Dataset(images),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(images),
            ignored_scope=nncf.IgnoredScope(types=["Add"], validate=False),
            advanced_parameters=parameters,
        )
    return _saved(model, name, metadata, half=False)


class OpenVinoNetwork(nn.Module):
    """Runs the files of ``openvino_files`` on the processor, in float32 or int8. It cannot be trained.

    Args:
        files: the .xml and the .bin file.
        threads: processor threads.

    Raises:
        UserError: the processor has no kernel for an operator.
    """

    def __init__(self, files: Mapping[str, bytes], threads: int = 1) -> None:
        super().__init__()
        import openvino

        xml, weights = (next(files[name] for name in files if name.endswith(end)) for end in (".xml", ".bin"))
        core = openvino.Core()
        model = core.read_model(xml, weights)
        settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self.request = core.compile_model(model, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise UserError(
                f"OpenVINO {_version()} cannot run this network on the processor: {_reason(error)} Use deploy=onnx."
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 -> logits (N, classes) float32, on the device of the images."""
        outputs = self.request.infer([images.detach().cpu().contiguous().numpy()])
        return torch.from_numpy(outputs[0].copy()).to(images.device)


def _read(content: bytes) -> Any:
    import openvino

    try:
        return openvino.Core().read_model(content)
    except RuntimeError as error:
        raise UserError(f"OpenVINO {_version()} {_unreadable(content, error)} Use deploy=onnx.") from error


def _unreadable(content: bytes, error: RuntimeError) -> str:
    """Why OpenVINO cannot read an ONNX file, with the operator and the layer if its message names an operator."""
    found = UNSUPPORTED.search(str(error))
    if found is None:
        return f"cannot read this network: {_reason(error)}"
    operator = found[1]
    layer = layer_of_node(content, operator) or "a layer"
    return f"has no operator for {operator}, which {layer} calls."


def _reason(error: RuntimeError) -> str:
    """The first line of a message of OpenVINO that is no place in its source code, as a sentence."""
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not line.startswith(("Exception from", "Check '"))]
    return first_line(RuntimeError(reasons[0] if reasons else str(error)))


def _version() -> str:
    import openvino

    return str(openvino.__version__).partition("-")[0]


def _saved(model: Any, name: str, metadata: Mapping[str, Any], half: bool) -> dict[str, bytes]:
    import openvino

    model.set_rt_info(json.dumps(dict(metadata)), [METADATA])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        openvino.save_model(model, path, compress_to_fp16=half)
        return {each.name: each.read_bytes() for each in (path, path.with_suffix(".bin"))}


def _nncf() -> Any:
    before = {key: os.environ.get(key) for key in NO_STATISTICS}
    os.environ.update(NO_STATISTICS)
    try:
        import nncf
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value
    nncf.set_log_level(logging.ERROR)
    return nncf
