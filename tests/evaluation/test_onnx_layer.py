"""Layers and networks for a target in int8 or fp16: what they compute, and that int8 kernels run them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import prunelab
from prunelab import Target
from prunelab.evaluation import LatencyModel
from prunelab.evaluation.layer_shapes import RELU, LayerShape
from prunelab.evaluation.onnx_layer import STEP, layer_inputs, layer_model, zero_of_output
from prunelab.export.session import session_of

CONV = LayerShape((4, 4), (3, 3), (1, 1), (1, 1), (1, 1), False, 4, 8, 1, RELU)
LINEAR = LayerShape((3,), (), (), (), (), False, 4, 8, 1, "")
DEPTHWISE = LayerShape((4, 4), (3, 3), (2, 2), (1, 1), (1, 1), False, 4, 4, 4, RELU)


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("shape", [CONV, LINEAR, DEPTHWISE], ids=["conv", "linear", "depthwise"])
def test_a_layer_computes_the_same_up_to_its_steps(shape: LayerShape, precision: str) -> None:
    inputs = numbers(0, 3, 4) if shape.is_linear else numbers(0, 2, 4, 4, 4)
    kernel = (shape.outputs, 4) if shape.is_linear else (shape.outputs, 4 // shape.groups, 3, 3)
    weight, bias = 0.2 * numbers(1, *kernel), numbers(2, shape.outputs)
    outputs = {}
    for each in ("fp32", precision):
        session = session_of(layer_model(shape, weight, bias, each), 1)
        (outputs[each],) = session.run(None, {"x": layer_inputs(inputs, each)})
    found = outputs[precision].astype(np.float32)
    if precision == "int8":
        assert outputs[precision].dtype == np.uint8
        found = (found - zero_of_output(shape)) * STEP
    assert np.abs(found - outputs["fp32"]).max() < (0.4 if precision == "int8" else 0.02)
    assert np.abs(outputs["fp32"]).max() > 0.9


def test_an_int8_layer_is_one_kernel_between_8_bit_numbers(tmp_path) -> None:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    model = layer_model(CONV, 0.2 * numbers(1, 8, 4, 3, 3), numbers(2, 8), "int8")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    kernels = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert kernels == {"QLinearConv"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_latency_is_measured_in_the_precision_of_the_target(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prunelab.evaluation.latency_target.SECONDS", 0.01)
    network = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval()
    images = torch.zeros(1, 3, 8, 8)
    graph = prunelab.analyze(network, images)
    model = LatencyModel.of(network, graph, images, Target(precision=precision))  # type: ignore[arg-type]
    half = prunelab.apply(network, graph.plan(kept={"0": range(16)}))
    found = model.compare(half)
    assert found.ratio > 0 and found.turns >= 11
    assert 0 < model.attach(graph).cost.function("latency")() < 10
    assert all(time > 0 for time in model.table.entries.values()) and len(model.table.entries) == 2
