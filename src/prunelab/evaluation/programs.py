"""Programs that are timed: one forward pass of a network, or of a single layer, on a target."""

from __future__ import annotations

import copy
import io
import re
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.evaluation.layer_shapes import BN_RELU, NOTHING, LayerShape
from prunelab.evaluation.onnx_layer import OPSET, layer_inputs, layer_model
from prunelab.evaluation.target import Target
from prunelab.evaluation.turns import Program
from prunelab.export.capture import DTYPES, captured, first_line, for_export, quiet
from prunelab.export.int8 import quantised
from prunelab.export.onnx_file import INPUT_NAME, calling_layer
from prunelab.export.session import session_of

_CONVOLUTIONS: dict[bool, list[Callable[..., Tensor]]] = {
    False: [functional.conv1d, functional.conv2d, functional.conv3d],
    True: [functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d],
}


def network_program(network: nn.Module, image_shape: tuple[int, ...], target: Target) -> Program:
    """One forward pass of a copy of ``network`` for a batch of random images.

    Args:
        image_shape: (C, H, W).

    Raises:
        UserError: the runtime does not support the network; names the operator, if the runtime does.
    """
    network = copy.deepcopy(network).eval()
    images = torch.rand(target.batch_size, *image_shape, generator=torch.Generator().manual_seed(0))
    if target.runtime == "onnxruntime":
        content = _exported(for_export(network, "fp16" if target.precision == "fp16" else "fp32"), images)
        if target.precision == "int8":
            content = quantised(
                content, [images], reduced=False, metadata={}
            )  # the range does not change the time
        return _session_program(content, images.numpy(), target.threads)
    dtype = DTYPES[target.precision]
    network, images = network.to(target.device, dtype), images.to(target.device, dtype)
    if target.runtime == "compiled":
        # Every network of a search has other shapes: without a reset, torch would run later ones eagerly.
        torch.compiler.reset()
        network = cast(nn.Module, torch.compile(network, dynamic=False))

    def forward() -> Any:
        with torch.inference_mode():
            return network(images)

    return forward


def layer_program(shape: LayerShape, target: Target) -> Program:
    """One call of a layer with random weights and inputs.

    ``compiled`` layers are timed as ``eager`` ones, which call the same kernels, without the tail: a compiler fuses it.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, weight, bias = (torch.randn(each, generator=generator) for each in _tensors(shape, target))
    if target.runtime == "onnxruntime":
        model = layer_model(shape, weight.numpy(), bias.numpy(), target.precision)
        return _session_program(model, layer_inputs(inputs.numpy(), target.precision), target.threads)
    dtype = DTYPES[target.precision]
    inputs, weight, bias = (each.to(target.device, dtype) for each in (inputs, weight, bias))
    layer = _torch_layer(shape, weight, bias)
    statistics = torch.zeros_like(bias), torch.ones_like(bias), torch.ones_like(bias), torch.zeros_like(bias)
    tail = shape.tail if target.runtime == "eager" else NOTHING

    def forward() -> Tensor:
        with torch.inference_mode():
            out = layer(inputs)
            if tail == BN_RELU:
                out = functional.batch_norm(out, *statistics)
            return out if tail == NOTHING else out.relu_()

    return forward


def _tensors(shape: LayerShape, target: Target) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """The shapes of the input, the weight and the bias."""
    if shape.is_linear:
        rows = target.batch_size * shape.size[0]
        return (rows, shape.inputs), (shape.outputs, shape.inputs), (shape.outputs,)
    first, second = shape.outputs, shape.inputs // shape.groups
    if shape.transposed:
        first, second = shape.inputs, shape.outputs // shape.groups
    return (
        (target.batch_size, shape.inputs, *shape.size),
        (first, second, *shape.kernel),
        (shape.outputs,),
    )


def _torch_layer(shape: LayerShape, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    if shape.is_linear:
        return lambda inputs: functional.linear(inputs, weight, bias)
    convolution = _CONVOLUTIONS[shape.transposed][len(shape.kernel) - 1]
    settings = {"stride": shape.stride, "padding": shape.padding, "dilation": shape.dilation}
    biased = None if shape.tail == BN_RELU else bias
    return lambda inputs: convolution(inputs, weight, biased, groups=shape.groups, **settings)


def _exported(network: nn.Module, images: Tensor) -> bytes:
    """The network as an ONNX file of fixed shapes, for timing only."""
    file = io.BytesIO()
    try:
        with quiet(), torch.inference_mode():
            torch.onnx.export(
                network,
                (images,),
                file,  # type: ignore[arg-type]  # a file in memory
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT_NAME],
            )
    except Exception as error:  # the exporter raises errors of many classes
        raise UserError(
            f"The network cannot be exported to ONNX, so it cannot be timed in onnxruntime: {first_line(error)}"
            f"{_caller(network, images, str(error))} Set budget.target.runtime=eager."
        ) from error
    return file.getvalue()


def _caller(network: nn.Module, images: Tensor, message: str) -> str:
    """A sentence with the layer that calls the operator that a message names; "" if it is not known."""
    operator = re.search(r"aten::(\w+)", message)
    if operator is None:
        return ""
    try:
        program = captured(network, tuple(images.shape[1:]))
    except UserError:
        return ""
    return f" It is called by {calling_layer(program, f'aten.{operator[1]}')}."


def _session_program(model: bytes, inputs: np.ndarray, number_of_threads: int) -> Program:
    try:
        session = session_of(model, number_of_threads)
    except Exception as error:  # onnxruntime raises errors of many classes
        raise UserError(f"onnxruntime does not run this network: {first_line(error)}") from error
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: inputs})
