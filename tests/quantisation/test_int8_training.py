"""Training for int8: rounding by hand, gradients that pass, and the same logits as the file of onnxruntime."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from prunelab.export.int8 import quantised
from prunelab.export.onnx_file import onnx_file
from prunelab.export.session import OnnxNetwork
from prunelab.quantisation.int8_training import RoundedInput, RoundedWeight, end_simulation, simulate_int8


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    for statistic in (made[1].running_mean, made[1].weight, made[1].bias):
        statistic.data.uniform_(0.5, 1.5)
    return made.eval()


def images(seed: int) -> Tensor:
    return torch.randn(16, 3, 10, 10, generator=torch.Generator().manual_seed(seed))


def test_weights_are_rounded_in_steps_of_their_largest_value() -> None:
    weight = torch.tensor([[1.27, -0.014, 0.016], [64.0, 0.4, -0.6]])
    expected = [[1.27, -0.01, 0.02], [64.0, 0.504, -0.504]]  # steps 1.27 / 127 and 64 / 127
    assert RoundedWeight()(weight).tolist() == [pytest.approx(row, abs=1e-3) for row in expected]
    reduced = RoundedWeight(reduced=True)(torch.tensor([[6.4, 0.149, -0.151]]))  # step 6.4 / 64
    assert reduced.tolist() == [pytest.approx([6.4, 0.1, -0.2], abs=1e-6)]


def test_inputs_are_rounded_and_clipped_and_gradients_pass_inside_the_range() -> None:
    layer = RoundedInput().eval()
    layer.widen(torch.tensor([-1.0, 1.55]))  # steps of 0.01
    inputs = torch.tensor([0.0, 0.333, -0.999, 5.0], requires_grad=True)
    out = layer(inputs)
    out.sum().backward()
    assert out.tolist() == pytest.approx([0.0, 0.33, -1.0, 1.55], abs=1e-6)
    assert inputs.grad.tolist() == [1, 1, 1, 0]


@pytest.mark.slow
def test_the_simulation_agrees_with_the_quantised_file() -> None:
    plain = network()
    rounded = simulate_int8(copy.deepcopy(plain), [images(0)], reduced=True)
    content = quantised(onnx_file(plain, (3, 10, 10), {}), [images(0)], True, {})
    with torch.no_grad():
        exact, simulated, file = plain(images(1)), rounded(images(1)), OnnxNetwork(content)(images(1))
    error = (file - exact).abs().mean()
    assert error > 1e-4
    # Of what int8 changes, the simulation explains most; the file also rounds the outputs of pooling and the logits.
    assert (file - simulated).abs().mean() < 0.7 * error
    assert (simulated.argmax(1) == file.argmax(1)).all()


def test_a_training_step_changes_the_weights_and_the_simulation_leaves_no_trace() -> None:
    plain = network()
    trained = simulate_int8(copy.deepcopy(plain), [images(0)])
    state = trained.state_dict()
    assert state["0.rounded_input.high"] > 0
    copy.deepcopy(trained).load_state_dict(state)  # as a checkpoint does
    optimizer = torch.optim.SGD(trained.train().parameters(), lr=0.1)
    nn.functional.cross_entropy(trained(images(2)), torch.arange(16) % 4).backward()
    optimizer.step()
    ended = end_simulation(trained)
    assert {*ended.state_dict()} == {*plain.state_dict()} and type(ended[0]) is nn.Conv2d
    assert not torch.equal(ended[0].weight, plain[0].weight)
    assert torch.equal(ended.eval()(images(3)), ended(images(3)))
    assert not any(module._forward_pre_hooks for module in ended.modules())
