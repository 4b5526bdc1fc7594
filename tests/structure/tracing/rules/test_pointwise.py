"""Elementwise operators tie the channels they meet; sums make stages, products make gates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers import SqueezeExcite
from torch import Tensor, nn
from torch.nn import functional as F

from prunelab.structure.tracing.rules.pointwise import RULES, pointwise

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()
Forward = Callable[[Any, Tensor], Tensor]


def conv(inputs: int, outputs: int, **arguments: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **arguments)


ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(), nn.PReLU(8), nn.PReLU(), nn.ELU(), nn.SELU(),
    nn.CELU(), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish(),
    nn.Hardsigmoid(), nn.Hardtanh(), nn.Sigmoid(), nn.Tanh(), nn.Softplus(), nn.Softsign(), nn.LogSigmoid(),
    nn.Softshrink(), nn.Hardshrink(), nn.Tanhshrink(), nn.Threshold(0.1, 0.0), nn.Dropout(),
]  # fmt: skip


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda layer: str(layer).replace(" ", ""))
def test_activation_functions_hand_channels_on(exact: Callable[..., Any], activation: nn.Module) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), activation, conv(8, 3)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8)}


@pytest.mark.parametrize(
    "name", ["hardtanh_", "leaky_relu", "leaky_relu_", "elu_", "celu_", "selu_", "hardsigmoid_"]
)
def test_activation_functions_have_a_rule_without_the_tag_of_newer_torch(name: str) -> None:
    assert RULES[name] is pointwise


def test_a_prelu_loses_the_slopes_of_removed_channels(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), nn.PReLU(8), conv(8, 3)), IMAGES)
    assert "1.weight" in {parameter for parameter, *_ in pruning.slices("0")}
    assert pruning.model[1].num_parameters == len(pruning.model[1].weight) == pruning.plan.widths["0"][1]


def test_functional_and_in_place_operators(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = F.relu_(net.norm(net.first(x)).mul_(2).add_(1))
        y += net.second(x)
        return net.out(torch.clamp_(y, max=3))

    parts = {"first": conv(3, 8), "norm": nn.BatchNorm2d(8), "second": conv(3, 8), "out": conv(8, 2)}
    assert exact(network(forward, **parts), IMAGES).groups == {"first": ("stage", 8)}


def test_an_addition_makes_a_stage(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.out(F.relu(x + net.second(F.relu(net.first(x)))))

    parts = {"stem": conv(3, 8), "first": conv(8, 6), "second": conv(6, 8), "out": conv(8, 2)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"stem": ("stage", 8), "first": ("filter", 6)}
    assert [found.parameter for found in pruning.graph.group("stem").producers] == [
        "stem.weight",
        "second.weight",
    ]


def test_a_projection_starts_another_stage(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = F.relu(net.stem(x))
        return net.out(F.relu(net.shortcut(x) + net.second(F.relu(net.first(x)))))

    parts = {"stem": conv(3, 8), "first": conv(8, 6), "second": conv(6, 12), "shortcut": nn.Conv2d(8, 12, 1)}
    pruning = exact(network(forward, **parts, out=conv(12, 2)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 8), "first": ("filter", 6), "second": ("stage", 12)}


@pytest.mark.parametrize("function", [torch.sub, torch.maximum, torch.minimum, torch.mul, torch.atan2])
def test_other_elementwise_functions_tie_without_a_shortcut(
    exact: Callable[..., Any], network: Any, function: Callable[..., Tensor]
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(function(net.first(x), net.second(x)))

    pruning = exact(network(forward, first=conv(3, 8), second=conv(3, 8), out=conv(8, 2)), IMAGES)
    assert pruning.groups == {"first": ("filter", 8)}


def by_convolutions(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x)
    return net.out(x * torch.sigmoid(net.widen(F.relu(net.squeeze(x.mean((2, 3), keepdim=True))))))


def by_linear_layers(net: Any, x: Tensor) -> Tensor:
    x = net.conv(x)
    gate = torch.sigmoid(net.widen(F.relu(net.squeeze(x.mean((2, 3))))))
    return net.out(x * gate.view(len(x), -1, 1, 1))


@pytest.mark.parametrize(
    ("forward", "layer"), [(by_convolutions, lambda i, o: nn.Conv2d(i, o, 1)), (by_linear_layers, nn.Linear)]
)
def test_squeeze_and_excitation(
    exact: Callable[..., Any], network: Any, forward: Forward, layer: Callable[[int, int], nn.Module]
) -> None:
    parts = {"conv": conv(3, 8), "squeeze": layer(8, 4), "widen": layer(4, 8), "out": conv(8, 2)}
    pruning = exact(network(forward, **parts), IMAGES)
    assert pruning.groups == {"conv": ("filter", 8), "squeeze": ("filter", 4)}
    group = pruning.graph.group("conv")
    assert [found.parameter for found in group.producers] == ["conv.weight"]
    assert [found.parameter for found in group.having("gate")] == ["widen.weight"]


def test_timms_squeeze_and_excitation(exact: Callable[..., Any]) -> None:
    pruning = exact(nn.Sequential(conv(3, 8), SqueezeExcite(8, rd_channels=4), conv(8, 2)), IMAGES)
    assert pruning.groups == {"0": ("filter", 8), "1.fc1": ("filter", 4)}
    assert [found.parameter for found in pruning.graph.group("0").having("gate")] == ["1.fc2.weight"]


def test_a_channel_that_gates_itself_is_still_produced(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(x)
        return net.out(x * torch.sigmoid(x.mean((2, 3), keepdim=True)))

    pruning = exact(network(forward, conv=conv(3, 8), out=conv(8, 2)), IMAGES)
    assert [found.parameter for found in pruning.graph.group("conv").producers] == ["conv.weight"]


def test_conditions_scale_and_shift(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = net.condition(condition)[:, :, None, None].chunk(2, 1)
        return net.out(F.relu(net.conv(x) * scale + shift))

    parts = {"conv": conv(3, 8), "condition": nn.Linear(5, 16), "out": conv(8, 2)}
    pruning = exact(network(forward, **parts), (IMAGES, torch.randn(2, 5)))
    assert list(pruning.groups.values()) == [("filter", 8)]


def test_layer_scale_and_position_embeddings_go_with_their_channels(
    exact: Callable[..., Any], network: Any
) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x) + net.places
        return net.out(x + net.scale.view(1, -1, 1, 1) * net.branch(F.relu(x)))

    parts = {"stem": conv(3, 8), "branch": conv(8, 8), "out": conv(8, 2)}
    made = {"places": nn.Parameter(torch.randn(1, 8, 8, 8)), "scale": nn.Parameter(torch.randn(8))}
    pruning = exact(network(forward, **parts, **made), IMAGES)
    assert pruning.groups == {"stem": ("stage", 8)}
    assert {("places", 1), ("scale", 0)} <= {found[:2] for found in pruning.slices("stem")}


def test_constants_of_any_width_follow(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.conv(x)
        return net.out(torch.where(x > 0, x, torch.zeros_like(x)) + torch.ones_like(x) * 0.5)

    assert exact(network(forward, conv=conv(3, 8), out=conv(8, 2)), IMAGES).groups == {"conv": ("filter", 8)}


def test_buffers_that_are_no_parameters_are_cut_too(exact: Callable[..., Any], network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out((net.conv(x) - net.mean) * 2)

    model = network(forward, conv=conv(3, 8), out=conv(8, 2))
    model.register_buffer("mean", torch.randn(8, 1, 1))
    pruning = exact(model, IMAGES)
    assert len(pruning.model.mean) == pruning.plan.widths["conv"][1] < 8


def cumulative(net: Any, x: Tensor) -> Tensor:
    return net.out(net.conv(F.relu(net.stem(x))).cumsum(1))


def bilinear_form(net: Any, x: Tensor) -> Tensor:
    x = net.conv(F.relu(net.stem(x)))
    return net.out(torch.linalg.inv_ex(x.reshape(-1, 8, 8)).inverse.reshape(x.shape))


@pytest.mark.parametrize(
    ("forward", "operator"),
    [(cumulative, "cumsum"), (bilinear_form, "linalg_inv_ex")],
)
def test_an_operator_without_a_rule_freezes_its_inputs_with_a_reason(
    exact: Callable[..., Any], network: Any, forward: Forward, operator: str
) -> None:
    pruning = exact(network(forward, stem=conv(3, 6), conv=conv(6, 8), out=conv(8, 2)), IMAGES)
    assert pruning.groups == {"stem": ("filter", 6)}
    assert list(pruning.frozen) == ["conv"]
    assert pruning.frozen["conv"].startswith(f"the operator {operator} has no rule")
