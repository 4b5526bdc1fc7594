"""A network as one ONNX file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from prunelab.errors import UserError
from prunelab.export.capture import captured, first_line, for_export, quiet

INPUT_NAME, OUTPUT_NAME = "images", "logits"


def onnx_file(
    network: nn.Module,
    image_shape: tuple[int, ...],
    metadata: Mapping[str, Any],
    opset: int | None = None,
    precision: str = "fp32",
) -> bytes:
    """``network`` as an ONNX file for batches of any size, made by torch's dynamo exporter.

    Args:
        image_shape: (C, H, W).
        metadata: is stored in the file, as JSON texts.
        opset: version of ONNX's operators; None: the exporter's choice.
        precision: "fp32", "fp16" or "bf16".

    Raises:
        UserError: the network cannot be captured, or ONNX has no operator for one of its operators.
    """
    program = captured(for_export(network, precision), image_shape)
    try:
        with quiet():
            exported = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
            )
    except torch.onnx.OnnxExporterError as error:
        raise UserError(_unsupported(program, error)) from error
    assert exported is not None
    model = exported.model_proto
    version = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    if opset is not None and version != opset:
        raise UserError(
            f"deploy.opset={opset}: the exporter could write version {version} of ONNX's operators only. Set "
            f"deploy.opset={version}, or leave it out."
        )
    return with_metadata(model, metadata)


def with_metadata(model: Any, metadata: Mapping[str, Any]) -> bytes:
    """The bytes of an ONNX model in which ``metadata`` replaces the former one, every value as JSON text."""
    del model.metadata_props[:]
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    return bytes(model.SerializeToString())


def opset_of(content: bytes) -> int:
    """The version of ONNX's operators in a file."""
    import onnx

    found = onnx.load_from_string(content).opset_import
    return next(int(each.version) for each in found if each.domain in ("", "ai.onnx"))


def layer_of_node(content: bytes, name: str) -> str | None:
    """The layer from which the exporter made a node of an ONNX file, in words; None if it is not known.

    Args:
        content: the bytes of the file.
        name: that of the node, or of its operator; then the first such node counts.
    """
    import onnx

    for node in onnx.load_from_string(content).graph.node:
        if name in (node.name, node.op_type):
            places = next((each.value for each in node.metadata_props if each.key == "namespace"), "").split(
                "/"
            )
            layers = [place.partition(": ") for place in places if ": aten." not in place]
            if not layers or not layers[-1][0]:
                return None
            path, _, kind = layers[-1]
            return f"the layer {path.removeprefix('network.')} ({kind.rpartition('.')[2]})"
    return None


def _unsupported(program: ExportedProgram, error: BaseException) -> str:
    """The message for a network that ONNX cannot represent; names the operator and the layer if they are known."""
    last: BaseException = error
    while last.__cause__ is not None:
        last = last.__cause__
    operator = re.search(r"op='([\w.]+)'", str(last))
    if operator is None:
        return f"The network cannot be exported to ONNX: {first_line(last)}"
    return (
        f"The network cannot be exported to ONNX: it has no operator for {operator[1]}, which "
        f"{calling_layer(program, operator[1])} calls. Use deploy=pt2, or write this layer with other operators."
    )


def calling_layer(program: ExportedProgram, operator: str) -> str:
    """The first layer that calls ``operator``, such as "aten.linalg_svd", in words."""
    for node in (*program.graph.nodes, *program.run_decompositions().graph.nodes):
        if node.op == "call_function" and str(node.target).startswith(f"{operator}."):
            path, kind = [*(node.meta.get("nn_module_stack") or {"": ("", "")}).values()][-1]
            return f"the layer {path} ({str(kind).rpartition('.')[2]})" if path else "the network itself"
    return "a layer"
