"""Layers and modules: their facts are those of the modules, and their costs add up to those of the network."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import prunelab
from prunelab import ChannelGraph, PruningPlan
from prunelab.errors import UserError
from prunelab.models import build

IMAGES = torch.linspace(-1, 1, 3 * 32 * 32).reshape(1, 3, 32, 32).sin()

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: build("cifar_resnet20", 10),
    "mobilenet": lambda: build("cifar_mobilenetv2", 10),
    "grouped": lambda: build("regnety_002", 10),
    "attention": lambda: build("test_vit", 10, img_size=32, patch_size=8),
    "convnext": lambda: build("test_convnext", 10),
    "normalised": lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU(), nn.Conv2d(8, 4, 3)),
}


def analysed(name: str) -> tuple[nn.Module, ChannelGraph]:
    model = NETWORKS[name]().eval()
    return model, prunelab.analyze(model, IMAGES)


@pytest.mark.parametrize("name", NETWORKS)
def test_rows_add_up_and_are_those_of_the_pruned_network(
    random_plan: Callable[..., PruningPlan], name: str
) -> None:
    model, graph = analysed(name)
    plan = random_plan(graph, seed=2)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    again = prunelab.analyze(pruned, IMAGES).cost
    for chosen in (None, plan):
        rows, layers = graph.cost.by_module(chosen), graph.cost.layers(chosen)
        for resource in ("params", "macs", "flops"):
            assert sum(getattr(row, resource) for row in rows) == graph.cost.function(resource)(chosen)
        for resource in ("macs", "flops"):
            assert sum(getattr(layer, resource) for layer in layers) == graph.cost.function(resource)(chosen)
    expected = {row.module: row for row in again.by_module()}
    assert {row.module: row for row in graph.cost.by_module(plan)} == expected
    facts = (
        "module",
        "in_channels",
        "out_channels",
        "groups",
        "kernel",
        "input_shape",
        "output_shape",
        "macs",
        "flops",
    )
    assert [[getattr(layer, fact) for fact in facts] for layer in graph.cost.layers(plan)] == [
        [getattr(layer, fact) for fact in facts] for layer in again.layers()
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_facts_are_those_of_the_modules(name: str) -> None:
    model, graph = analysed(name)
    layers = {layer.module: layer for layer in graph.cost.layers() if layer.operator != "product"}
    rows = {row.module: row for row in graph.cost.by_module()}
    for path, module in model.named_modules():
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            layer, row = layers[path], rows[path]
            assert (layer.in_channels, layer.out_channels) == (module.in_channels, module.out_channels)
            assert (layer.kernel, layer.stride, layer.padding) == (
                module.kernel_size, module.stride, module.padding,
            )  # fmt: skip
            assert (layer.dilation, layer.groups, layer.operator) == (
                module.dilation, module.groups, "convolution",
            )  # fmt: skip
            assert (row.kernel, row.stride, row.groups, row.kind) == (
                layer.kernel, layer.stride, layer.groups, "Conv2d",
            )  # fmt: skip
            assert row.output_shape == layer.output_shape
        elif isinstance(module, nn.Linear):
            layer = layers[path]
            assert (layer.in_channels, layer.out_channels) == (module.in_features, module.out_features)
            assert (layer.operator, layer.kernel, layer.weight) == ("linear", (), f"{path}.weight")
        if own and "parametrizations" not in path:
            assert rows[path].kind.startswith(type(module).__name__.removeprefix("Parametrized"))
            assert rows[path].params == own or "Parametrized" in type(module).__name__


def test_positions_and_groups_of_a_small_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 6, 2),
        nn.Flatten(), nn.Linear(6 * 14 * 14, 5),
    )  # fmt: skip
    graph = prunelab.analyze(model, IMAGES)
    layers = graph.cost.layers()
    assert [layer.position for layer in layers] == [0, 1, 2, 3]
    assert [layer.module for layer in layers] == ["0", "2", "3", "5"]
    assert [layer.reads for layer in layers] == [(), ("0",), ("0",), ("3",)]
    assert [layer.makes for layer in layers] == [("0",), ("0",), ("3",), ()]
    assert [layer.transposed for layer in layers] == [False, False, True, False]
    assert (layers[0].input_shape, layers[0].output_shape) == ((1, 3, 32, 32), (1, 8, 15, 15))
    assert graph.layers("0") == layers[:2]
    assert graph.layers("3") == layers[2:3]
    with pytest.raises(UserError, match="no prunable group '5'"):
        graph.layers("5")


def test_widths_of_many_networks_at_once(random_plan: Callable[..., PruningPlan]) -> None:
    _, graph = analysed("mobilenet")
    plans = [random_plan(graph, seed=seed) for seed in range(4)]
    widths = np.array([[len(plan.kept[group.name]) for group in graph.groups] for plan in plans])
    alive = np.array([[block.name not in plan.dropped_blocks for block in graph.blocks] for plan in plans])
    found = graph.cost.layer_widths(widths, alive)
    positions = [layer.position for layer in graph.cost.layers()]
    assert found.inputs.shape == (4, len(positions))
    for row, plan in enumerate(plans):
        layers = graph.cost.layers(plan)
        kept = [layer.position for layer in layers]
        assert sorted(set(positions) - set(kept)) == np.flatnonzero(~found.alive[row]).tolist()
        assert found.inputs[row, kept].tolist() == [layer.in_channels for layer in layers]
        assert found.outputs[row, kept].tolist() == [layer.out_channels for layer in layers]
        assert found.groups[row, kept].tolist() == [layer.groups for layer in layers]


def test_a_latency_table_plugs_in(random_plan: Callable[..., PruningPlan]) -> None:
    """A table that gives each layer the time of in x out x kernel x places / 1000."""
    _, graph = analysed("resnet")
    cost = graph.cost
    layers = cost.layers()
    work = np.array([np.prod(layer.kernel) * np.prod(layer.output_shape[2:]) for layer in layers]) / 1000

    def latency(widths: np.ndarray, alive: np.ndarray) -> np.ndarray:
        assert alive.shape == (len(widths), len(graph.blocks))
        at = cost.layer_widths(widths, alive)
        return (at.inputs * at.outputs * work * at.alive).sum(axis=1)

    extended = cost.with_resource("latency", latency)
    assert extended.resources == ("flops", "macs", "params", "latency")
    assert "latency" not in cost.resources
    plan = random_plan(graph, seed=1)
    function = extended.function("latency")
    assert function() == pytest.approx((cost.macs()) / 1000)
    assert function(plan) == pytest.approx(cost.macs(plan) / 1000)
    rows = np.stack([cost.full, np.maximum(cost.full // 2, 1)])
    np.testing.assert_allclose(extended.of("latency", rows), cost.macs(rows) / 1000)
    assert extended.flops(plan) == cost.flops(plan)
    with pytest.raises(UserError, match="'latency' already"):
        extended.with_resource("latency", latency)
    with pytest.raises(UserError, match="'flops' already"):
        cost.with_resource("flops", latency)


def test_functional_layers_and_bias_additions_belong_to_the_module_that_runs_them() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel, self.shift = nn.Parameter(torch.rand(8, 3, 3, 3)), nn.Parameter(torch.rand(8))
            self.token, self.last = nn.Linear(8, 6), nn.Linear(6, 2)
            self.never = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = F.conv2d(x, self.kernel, self.shift, stride=4)
            return self.last(torch.relu(self.token(x.flatten(2).transpose(1, 2)))).mean(1)

    model = Functional()
    graph = prunelab.analyze(model, IMAGES)
    convolution, token, last = graph.cost.layers()
    assert (convolution.module, convolution.kind, convolution.weight) == ("", "Functional", "kernel")
    assert (convolution.params, token.params, last.params) == (8 * 27 + 8, 54, 14)
    assert convolution.flops == 64 * (2 * 8 * 27 + 8)
    assert (token.flops, last.flops) == (64 * (2 * 48 + 6), 64 * (2 * 12 + 2))
    rows = {row.module: row for row in graph.cost.by_module()}
    assert list(rows) == ["", "token", "last", "never"]
    assert (rows["never"].runs, rows["never"].params, rows["never"].flops) == (0, 20, 0)
    assert rows["token"].output_shape == (1, 64, 6)


def test_a_module_that_runs_twice_counts_its_parameters_once() -> None:
    shared = nn.Conv2d(3, 3, 3, padding=1)
    graph = prunelab.analyze(nn.Sequential(shared, nn.ReLU(), shared), IMAGES)
    (row,) = graph.cost.by_module()
    assert (row.runs, row.params, row.macs) == (2, 84, 2 * 81 * 1024)
    assert [layer.macs for layer in graph.cost.layers()] == [81 * 1024] * 2
