"""The cost model is exact: the published figures, hand-computed sums, and torch's own counter on pruned modules."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab import CostModel
from prunelab.errors import UserError
from prunelab.models import build


def analysed(name: str, size: int, channels: int = 3, **arguments: Any) -> CostModel:
    """The cost of a network that has no weights (the meta device)."""
    with torch.device("meta"):
        model = build(name, arguments.pop("num_classes", 1000), in_chans=channels, **arguments)
        return prunelab.analyze(model, torch.empty(1, channels, size, size)).cost


@pytest.mark.parametrize(
    ("name", "gigaflops", "megaparameters"),
    [
        ("resnet50", "8.178", "25.56"),
        ("resnet50_v1", "7.716", "25.56"),
        ("vgg16", "30.95", "138.4"),
        ("mobilenetv2_100", "0.6015", "3.505"),
    ],
)
def test_published_figures_at_224(name: str, gigaflops: str, megaparameters: str) -> None:
    cost = analysed(name, 224)
    assert f"{cost.flops() / 1e9:.4g}" == gigaflops
    assert f"{cost.params() / 1e6:.4g}" == megaparameters


def test_resnet56_of_the_paper() -> None:
    cost = prunelab.analyze(build("cifar_resnet56", 10), torch.zeros(1, 3, 32, 32)).cost
    assert f"{cost.flops() / 1e6:.2f}" == "250.97"
    assert f"{cost.params() / 1e6:.3f}" == "0.853"


SMALL = nn.Sequential(
    nn.Conv2d(3, 4, 3, padding=1),
    nn.BatchNorm2d(4),
    nn.ReLU(),
    nn.Conv2d(4, 6, 3, bias=False),
    nn.Flatten(),
    nn.Linear(96, 5),
)


def hand_computed(first: int, second: int) -> tuple[int, int, int]:
    """MACs, bias additions and parameters of SMALL on a 6x6 image with these widths."""
    macs = 36 * 27 * first + 16 * 9 * first * second + 16 * second * 5
    params = 27 * first + first + 2 * first + 9 * first * second + 16 * second * 5 + 5
    return macs, 36 * first + 5, params


def test_a_small_network_by_hand() -> None:
    graph = prunelab.analyze(SMALL, torch.zeros(1, 3, 6, 6))
    macs, biases, params = hand_computed(4, 6)
    assert (graph.cost.macs(), graph.cost.flops(), graph.cost.params()) == (macs, 2 * macs + biases, params)
    plan = graph.plan({"0": [1, 2, 3], "3": [5]})
    macs, biases, params = hand_computed(3, 1)
    assert graph.cost.macs(plan) == macs
    assert graph.cost.flops(plan) == 2 * macs + biases
    assert graph.cost.params(plan) == params
    assert all(
        isinstance(value, int)
        for value in (graph.cost.macs(), graph.cost.flops(plan), graph.cost.params(plan))
    )


def test_costs_are_for_one_image_with_any_batch() -> None:
    one, many = (prunelab.analyze(SMALL, torch.zeros(images, 3, 6, 6)).cost for images in (1, 7))
    assert (one.flops(), one.macs(), one.params()) == (many.flops(), many.macs(), many.params())


def test_many_widths_at_once_equal_each_separately() -> None:
    cost = prunelab.analyze(SMALL, torch.zeros(1, 3, 6, 6)).cost
    widths = np.array([[4, 6], [3, 1], [1, 1], [2, 5]])
    expected = np.array([hand_computed(*row) for row in widths.tolist()])
    np.testing.assert_array_equal(cost.macs(widths), expected[:, 0])
    np.testing.assert_array_equal(cost.flops(widths), 2 * expected[:, 0] + expected[:, 1])
    np.testing.assert_array_equal(cost.params(widths), expected[:, 2])
    for resource in ("flops", "macs", "params"):
        np.testing.assert_array_equal(cost.of(resource, widths), getattr(cost, resource)(widths))
        assert [getattr(cost, resource)(row) for row in widths] == cost.of(resource, widths).tolist()
    assert cost.of("params", widths[0]).shape == (1,)


def test_an_unknown_resource_and_widths_of_another_network_are_errors() -> None:
    cost = prunelab.analyze(SMALL, torch.zeros(1, 3, 6, 6)).cost
    for call in (lambda: cost.of("energy", [[4, 6]]), lambda: cost.function("energy")):
        with pytest.raises(UserError, match=r"'energy'.*flops, macs, params"):
            call()
    with pytest.raises(UserError, match=r"'latency'.*with_resource"):
        cost.function("latency")
    with pytest.raises(ValueError, match="2 groups"):
        cost.flops([[4, 6, 1]])


class Around(nn.Module):
    """y = relu(f(x) + x)."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inside(x) + x)


def nested() -> nn.Module:
    """A block (1) inside which there is a block (1.inside.1), and a block (2)."""
    inner = Around(nn.Conv2d(6, 6, 3, padding=1))
    outer = Around(nn.Sequential(nn.Conv2d(8, 6, 1), inner, nn.Conv2d(6, 8, 1)))
    other = Around(nn.Sequential(nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 8, 1)))
    return nn.Sequential(nn.Conv2d(3, 8, 1), outer, other, nn.Conv2d(8, 2, 1))


def test_a_dropped_block_costs_nothing_and_neither_does_what_is_inside_it() -> None:
    graph = prunelab.analyze(nested(), torch.zeros(1, 3, 4, 4))
    names = [block.name for block in graph.blocks]
    assert sorted(names) == ["1", "1.inside.1", "2"]
    parts = {"1": 8 * 6 + 6 + 6 * 8 + 8, "1.inside.1": 9 * 6 * 6 + 6, "2": 8 * 5 + 5 + 5 * 8 + 8}
    rest = 3 * 8 + 8 + 8 * 2 + 2
    full = [group.size for group in graph.groups]
    for kept, expected in {
        ("1", "1.inside.1", "2"): rest + sum(parts.values()),
        ("1", "2"): rest + parts["1"] + parts["2"],
        ("1.inside.1", "2"): rest + parts["2"],
        ("1",): rest + parts["1"],
        (): rest,
    }.items():
        alive = [[name in kept for name in names]]
        plan = graph.plan({}, [name for name in names if name not in kept])
        assert graph.cost.params([full], alive).tolist() == [expected]
        assert graph.cost.params(plan) == expected
        assert graph.cost.flops([full], alive).tolist() == [graph.cost.flops(plan)]


def test_alive_rows_go_with_width_rows(random_plan: Callable[..., Any]) -> None:
    graph = prunelab.analyze(build("cifar_resnet20", 10), torch.zeros(1, 3, 32, 32))
    plans = [random_plan(graph, seed, drop=0.5) for seed in range(20)]
    widths = [[plan.widths[group.name][1] for group in graph.groups] for plan in plans]
    alive = [[block.name not in plan.dropped_blocks for block in graph.blocks] for plan in plans]
    for resource in ("flops", "macs", "params"):
        together = graph.cost.of(resource, widths, alive)
        assert together.shape == (20,)
        assert together.tolist() == [getattr(graph.cost, resource)(plan) for plan in plans]


# Every kind of layer: bottlenecks and projections, depthwise, squeeze-and-excitation, dense and cross-stage
# connections, grouped convolutions, attention.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "cifar_resnet20": (32, {}),
    "cifar_resnet32": (32, {"shortcut": "B"}),
    "lenet5": (28, {"in_chans": 1}),
    "cifar_mobilenetv1": (32, {}),
    "cifar_mobilenetv2": (32, {}),
    "resnet26": (64, {}),
    "densenet121": (64, {"block_config": (2, 2, 2)}),
    "test_efficientnet": (64, {}),
    "regnety_002": (64, {}),
    "test_vit": (64, {"img_size": 64}),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name != "lenet5")) for name in NETWORKS]
)
def test_random_plans_cost_what_is_counted_on_the_pruned_module(
    random_plan: Callable[..., Any], counted_flops: Callable[[nn.Module, Any], int], name: str
) -> None:
    size, arguments = NETWORKS[name]
    model = build(name, 10, **arguments).eval()
    images = torch.zeros(1, arguments.get("in_chans", 3), size, size)
    graph = prunelab.analyze(model, images)
    if name != "cifar_resnet20":  # the content of its shortcut's index is needed
        model = model.to("meta")
    assert graph.cost.flops() == counted_flops(model, images)
    dropped = 0
    for seed in range(15):
        plan = random_plan(graph, seed, keep=(0.05, 1.0))
        pruned = prunelab.apply(copy.deepcopy(model), plan)
        assert graph.cost.params(plan) == sum(parameter.numel() for parameter in pruned.parameters())
        assert graph.cost.flops(plan) == counted_flops(pruned, images)
        dropped += len(plan.dropped_blocks)
    assert (dropped > 0) == bool(graph.blocks)
