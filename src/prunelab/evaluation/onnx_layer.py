"""An ONNX file of one layer with random weights, in float32, float16 or int8, for timing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from prunelab.evaluation.layer_shapes import NOTHING, LayerShape

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

OPSET = 17
NUMBERS: Mapping[str, type[np.generic]] = {"fp32": np.float32, "fp16": np.float16, "int8": np.uint8}
"""The numbers that enter and leave a layer."""

STEP = 0.05
"""Of all 8-bit numbers; times do not depend on it."""

ZERO = 128
"""The 8-bit number of the value 0 at the input of a layer."""


def layer_inputs(inputs: np.ndarray, precision: str) -> np.ndarray:
    """Float32 ``inputs`` in the numbers of a precision."""
    values = np.clip(np.round(inputs / STEP) + ZERO, 0, 255) if precision == "int8" else inputs
    return values.astype(NUMBERS[precision])


def zero_of_output(shape: LayerShape) -> int:
    """The 8-bit number of the value 0 in the output; after a ReLU the smallest one, so that rounding replaces the
    ReLU."""
    return ZERO if shape.tail == NOTHING else 0


def layer_model(shape: LayerShape, weight: np.ndarray, bias: np.ndarray, precision: str) -> bytes:
    """An ONNX file of one layer. A BatchNorm is part of its convolution there.

    In int8 both ends are 8-bit numbers, as between the layers of a quantised network: DequantizeLinear, the layer,
    QuantizeLinear, which onnxruntime replaces by one kernel.
    """
    from onnx import TensorProto, helper

    whole = precision == "int8"
    kind = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "int8": TensorProto.UINT8}[precision]
    names = ["x_", "w_", "b_"] if whole else ["x", "w", "b"]
    if shape.is_linear:
        layer = helper.make_node("Gemm", names, ["y"], transB=1)
    else:
        settings: dict[str, Any] = {
            "kernel_shape": shape.kernel, "strides": shape.stride, "pads": [*shape.padding, *shape.padding],
            "dilations": shape.dilation, "group": shape.groups,
        }  # fmt: skip
        layer = helper.make_node("ConvTranspose" if shape.transposed else "Conv", names, ["y"], **settings)
    nodes = [layer] if shape.tail == NOTHING else [layer, helper.make_node("Relu", ["y"], ["z"])]
    constants = _float_constants(weight, bias, precision)
    if whole:
        before, after, constants = _rounding(shape, weight, bias, nodes[-1].output[0])
        nodes = [*before, *nodes, after]
    return bytes(_model(nodes, constants, kind).SerializeToString())


def _model(nodes: list[NodeProto], constants: list[TensorProto], kind: int) -> ModelProto:
    from onnx import helper

    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", kind, None)],
        [helper.make_tensor_value_info(nodes[-1].output[0], kind, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)


def _float_constants(weight: np.ndarray, bias: np.ndarray, precision: str) -> list[TensorProto]:
    from onnx import numpy_helper

    dtype = NUMBERS[precision]
    return [
        numpy_helper.from_array(weight.astype(dtype), "w"),
        numpy_helper.from_array(bias.astype(dtype), "b"),
    ]


def _rounding(
    shape: LayerShape, weight: np.ndarray, bias: np.ndarray, last: str
) -> tuple[list[NodeProto], NodeProto, list[TensorProto]]:
    """The nodes before and after the layer, whose output is ``last``, and all constants of an int8 layer."""
    from onnx import helper, numpy_helper

    axis = 1 if shape.transposed else 0
    channels = weight.shape[axis]
    small = np.clip(np.round(weight / STEP), -127, 127).astype(np.int8)
    constants = {
        "w": small,
        "b": np.round(bias / STEP**2).astype(np.int32),
        "step": np.float32(STEP),
        "zero": np.uint8(ZERO),
        "last_zero": np.uint8(zero_of_output(shape)),
        "w_step": np.full(channels, STEP, np.float32),
        "w_zero": np.zeros(channels, np.int8),
        "b_step": np.full(len(bias), STEP**2, np.float32),
        "b_zero": np.zeros(len(bias), np.int32),
    }
    before = [
        helper.make_node("DequantizeLinear", ["x", "step", "zero"], ["x_"]),
        helper.make_node("DequantizeLinear", ["w", "w_step", "w_zero"], ["w_"], axis=axis),
        helper.make_node("DequantizeLinear", ["b", "b_step", "b_zero"], ["b_"], axis=0),
    ]
    after = helper.make_node("QuantizeLinear", [last, "step", "last_zero"], ["out"])
    return (
        before,
        after,
        [numpy_helper.from_array(np.asarray(each), name) for name, each in constants.items()],
    )
