"""masked == pruned on common networks, and a reference written by hand for a plain ResNet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunelab
from prunelab import PruningPlan
from prunelab.models import CifarResNet, build
from prunelab.structure import masked_forward

TOLERANCE = 1e-9  # the comparison runs in float64

# Input side, and arguments that make the network fast without changing its kind.
NETWORKS: dict[str, tuple[int, dict[str, Any]]] = {
    "cifar_resnet20": (32, {}),
    "cifar_resnet56": (16, {}),
    "cifar_resnet32": (32, {"shortcut": "B"}),
    "cifar_vgg16_bn": (32, {}),
    "cifar_mobilenetv1": (32, {}),
    "cifar_mobilenetv2": (32, {}),
    "lenet5": (28, {"in_chans": 1}),
    "resnet50": (64, {}),
    "resnet50_v1": (64, {}),
    "resnet152": (48, {}),
    "vgg16": (32, {"mlp_ratio": 1 / 32}),
    "vgg16_bn": (32, {"mlp_ratio": 1 / 32}),
    "mobilenetv1_100": (64, {}),
    "mobilenetv2_100": (64, {}),
    "densenet121": (64, {}),
    "efficientnet_b0": (64, {}),
    "regnety_040": (48, {}),
}


LARGE = {
    "cifar_vgg16_bn",
    "cifar_mobilenetv1",
    "cifar_resnet56",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "vgg16",
    "vgg16_bn",
    "resnet50",
    "resnet50_v1",
    "resnet152",
    "densenet121",
    "efficientnet_b0",
    "regnety_040",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS]
)
def test_a_pruned_network_computes_what_the_masked_one_computes(
    lively: Callable[..., nn.Module], random_plan: Callable[..., PruningPlan], name: str
) -> None:
    size, arguments = NETWORKS[name]
    images = torch.randn(2, arguments.get("in_chans", 3), size, size)
    model = lively(build(name, 10, **arguments), images)
    graph = prunelab.analyze(model, images)
    assert graph.groups
    assert all(group.exact for group in graph.groups)
    assert {group.frozen for group in graph.frozen} == {"output of the network"}
    plan = random_plan(graph, seed=1)
    assert bool(plan.dropped_blocks) == bool(graph.blocks)
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert graph.cost.params(plan) == sum(parameter.numel() for parameter in pruned.parameters())
    assert graph.cost.params(plan) < 0.7 * graph.cost.params()
    assert prunelab.check(model, pruned, plan, images) < TOLERANCE
    with torch.no_grad():
        assert pruned(images).shape == (2, 10)


@pytest.mark.parametrize(
    "name", ["cifar_resnet20", pytest.param("resnet18", marks=pytest.mark.slow), "test_efficientnet"]
)
def test_dropping_only_blocks(lively: Callable[..., nn.Module], name: str) -> None:
    images = torch.randn(2, 3, 32, 32)
    model = lively(build(name, 10), images)
    graph = prunelab.analyze(model, images)
    names = [block.name for block in graph.blocks]
    for dropped in (*([name] for name in names), names):
        plan = graph.plan({}, dropped)
        pruned = prunelab.apply(copy.deepcopy(model), plan)
        assert prunelab.check(model, pruned, plan, images) < TOLERANCE


def masked_by_hand(
    model: CifarResNet, plan: PruningPlan, images: Tensor, drop: Callable[[nn.Module], None]
) -> Tensor:
    """The full CIFAR ResNet (projection shortcuts) in float64 with zeros in the weights that read removed channels.

    Written without the engine: block (s, b) reads stage s (its first block stage s - 1), its second convolution reads
    its first. The stem writes stage 1.
    """
    net = copy.deepcopy(model).double().eval()

    def silence(reader: nn.Conv2d | nn.Linear, group: str) -> None:
        for channel in set(range(reader.weight.shape[1])) - set(plan.kept[group]):
            reader.weight.data[:, channel] = 0

    for number, stage in enumerate((net.layer1, net.layer2, net.layer3), start=1):
        for place, block in enumerate(stage):
            source = f"layer{number if place or number == 1 else number - 1}"
            silence(block.conv1, source)
            silence(block.conv2, f"layer{number}.{place}.conv1")
            if isinstance(block.shortcut, nn.Sequential):
                silence(block.shortcut[0], source)
            if f"layer{number}.{place}" in plan.dropped_blocks:
                drop(block)
    silence(net.linear, "layer3")
    with torch.no_grad():
        return net(images.double())


def zero_the_last_norm(block: nn.Module) -> None:
    nn.init.zeros_(block.bn2.weight)
    nn.init.zeros_(block.bn2.bias)


@pytest.mark.parametrize("seed", range(4))
def test_a_plain_resnet_against_a_mask_written_by_hand(
    lively: Callable[..., nn.Module], random_plan: Callable[..., PruningPlan], seed: int
) -> None:
    images = torch.randn(2, 3, 32, 32)
    model = lively(CifarResNet(3, shortcut="B"), images)
    graph = prunelab.analyze(model, images)
    plan = random_plan(graph, seed, drop=0.4)
    expected = masked_by_hand(model, plan, images, zero_the_last_norm)
    pruned = prunelab.apply(copy.deepcopy(model), plan).double()
    with torch.no_grad():
        torch.testing.assert_close(pruned(images.double()), expected, rtol=TOLERANCE, atol=TOLERANCE)
    torch.testing.assert_close(masked_forward(model, plan, images), expected, rtol=TOLERANCE, atol=TOLERANCE)


def one_index_moved(plan: PruningPlan, group: str, index: int) -> dict[str, list[int]]:
    """``plan.kept`` with the ``index``-th kept channel of ``group`` exchanged for one that is removed."""
    kept = {name: list(channels) for name, channels in plan.kept.items()}
    removed = sorted(set(range(plan.widths[group][0])) - set(kept[group]))
    kept[group][index] = removed[index % len(removed)]
    return kept


def without_dead_channels(model: nn.Module) -> nn.Module:
    """Leaky activations: two channels that are zero everywhere cannot be distinguished."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(module, name, nn.LeakyReLU(0.3))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_resnet20", {}),
        ("cifar_mobilenetv1", {}),
        ("densenet121", {"block_config": (2, 2), "growth_rate": 8}),
        ("test_efficientnet", {}),
    ],
)
def test_check_notices_any_single_kept_index_that_is_wrong(
    lively: Callable[..., nn.Module],
    random_plan: Callable[..., PruningPlan],
    name: str,
    arguments: dict[str, Any],
) -> None:
    model = lively(without_dead_channels(build(name, 10, **arguments)), torch.randn(16, 3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    graph = prunelab.analyze(model, images)
    plan = random_plan(graph, seed=0, keep=(0.5, 0.8), drop=0.0)
    for number, group in enumerate(graph.groups):
        wrong = graph.plan(one_index_moved(plan, group.name, number % len(plan.kept[group.name])))
        pruned = prunelab.apply(copy.deepcopy(model), wrong)
        assert prunelab.check(model, pruned, plan, images) > 1e-4, group.name


def test_check_notices_every_index_of_one_group(randomise: Callable[[nn.Module], nn.Module]) -> None:
    model = randomise(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.SiLU(), nn.Conv2d(6, 4, 3), nn.Flatten())
    )
    images = torch.randn(2, 3, 8, 8)
    graph = prunelab.analyze(model, images)
    plan = graph.plan({"0": [0, 2, 5]})
    for index in range(3):
        wrong = prunelab.apply(copy.deepcopy(model), graph.plan(one_index_moved(plan, "0", index)))
        assert prunelab.check(model, wrong, plan, images) > 1e-6
    assert prunelab.check(model, prunelab.apply(copy.deepcopy(model), plan), plan, images) < TOLERANCE


class Mixed(nn.Module):
    """A stage, a gate, a grouped convolution, a group normalisation and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.squeeze, self.widen = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 6, 1)
        self.grouped = nn.Conv2d(6, 16, 3, padding=1, groups=2)
        self.norm, self.out = nn.GroupNorm(8, 16), nn.Conv2d(22, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.silu(self.stem(x))
        x = x + self.branch(x) * self.widen(self.squeeze(x.mean((2, 3), keepdim=True)).sigmoid()).sigmoid()
        return self.out(torch.cat([x, nn.functional.silu(self.norm(self.grouped(x)))], 1))


@pytest.mark.slow
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), cardinality=st.booleans(), data=st.data())
def test_check_notices_that_any_kept_index_of_any_plan_is_another(
    randomise: Callable[[nn.Module], nn.Module],
    random_plan: Callable[..., PruningPlan],
    seed: int,
    cardinality: bool,
    data: st.DataObject,
) -> None:
    torch.manual_seed(0)
    model, images = randomise(Mixed()), torch.randn(2, 3, 6, 6)
    graph = prunelab.analyze(model, images, exact=True, cardinality=cardinality)
    plan = random_plan(graph, seed, keep=(0.3, 0.7), drop=0.0)
    assert prunelab.check(model, prunelab.apply(copy.deepcopy(model), plan), plan, images) < TOLERANCE
    choices = [
        (name, index)
        for name, (before, after) in plan.widths.items()
        if after < before
        for index in range(after)
    ]
    wrong = graph.plan(one_index_moved(plan, *data.draw(st.sampled_from(choices))))
    pruned = prunelab.apply(copy.deepcopy(model), wrong)
    assert prunelab.check(model, pruned, plan, images) > 1e-6


def test_check_notices_a_wrong_block_a_wrong_weight_and_a_wrong_shape(
    randomise: Callable[[nn.Module], nn.Module],
) -> None:
    model = randomise(build("cifar_resnet20", 10))
    images = torch.randn(2, 3, 32, 32)
    graph = prunelab.analyze(model, images)
    plan = graph.plan({"layer2": range(20)}, ["layer1.1"])
    other = prunelab.apply(copy.deepcopy(model), graph.plan({"layer2": range(20)}, ["layer1.2"]))
    assert prunelab.check(model, other, plan, images) > 1e-6
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    pruned.linear.bias.data[3] += 1e-3
    assert prunelab.check(model, pruned, plan, images) > 1e-6
    pruned.linear = nn.Linear(64, 9)
    assert prunelab.check(model, pruned, plan, images) == float("inf")
    pruned.linear = nn.Linear(64, 10)
    nn.init.constant_(pruned.linear.weight, float("nan"))
    assert prunelab.check(model, pruned, plan, images) == float("inf")


def test_check_leaves_both_networks_as_they_were(randomise: Callable[[nn.Module], nn.Module]) -> None:
    model = randomise(build("cifar_resnet20", 10)).train()
    images = torch.randn(2, 3, 32, 32)
    plan = prunelab.analyze(model, images).plan({"layer1": [0, 3]}, ["layer2.1"])
    pruned = prunelab.apply(copy.deepcopy(model), plan).train()
    before = [{name: tensor.clone() for name, tensor in net.state_dict().items()} for net in (model, pruned)]
    default = torch.get_default_dtype()
    prunelab.check(model, pruned, plan, images)
    for net, state in zip((model, pruned), before, strict=True):
        assert all(module.training for module in net.modules())
        assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
        assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in net.state_dict().values())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert torch.get_default_dtype() == default


def test_check_of_a_network_that_makes_tensors_itself(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        x = torch.relu(net.conv(x))
        canvas = torch.zeros(len(x), 3, 8, 8, device=x.device)
        canvas[:, :2] = 1.5
        return net.out(x) + canvas

    model = network(forward, conv=nn.Conv2d(3, 8, 3, padding=1), out=nn.Conv2d(8, 3, 1))
    images = torch.randn(2, 3, 8, 8)
    graph = prunelab.analyze(model, images)
    plan = graph.plan({"conv": [1, 4, 5]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, images) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_check_is_in_float64_for_any_precision_of_the_network(dtype: torch.dtype) -> None:
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.Flatten()]
    model = nn.Sequential(*layers).to(dtype)
    images = torch.randn(2, 3, 8, 8, dtype=dtype)
    plan = prunelab.analyze(model, images).plan({"0": [1, 2, 7]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert pruned[0].weight.dtype == dtype
    assert prunelab.check(model, pruned, plan, images) < TOLERANCE


class PositionBias(nn.Module):
    """The output of a small network for fixed coordinates is added to the features (as in Swin V2)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("places", torch.linspace(-1, 1, 24).reshape(12, 2))
        self.first, self.second = nn.Linear(2, 8), nn.Linear(8, 6)
        self.stem, self.out = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out((self.stem(x) + self.second(self.first(self.places).relu())).tanh())


def test_values_computed_from_constants_are_masked_too(exact: Callable[..., Any]) -> None:
    pruning = exact(PositionBias(), torch.randn(2, 12, 5))
    assert pruning.groups["first"] == ("filter", 8)
    assert {size for _, size in pruning.groups.values()} == {8, 6}


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.wide(self.narrow(x).relu())


class ResidualOnImages(nn.Module):
    """A residual block on the images, whose output is concatenated with a convolution of it."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.depthwise = Residual(3), nn.Conv2d(3, 3, 1, groups=3)
        self.classifier = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block(x)
        x = torch.cat([self.depthwise(x), x], 1)
        return self.classifier(nn.functional.avg_pool2d(x, 4).flatten(1))


def test_a_block_on_the_images_is_dropped() -> None:
    """The images carry no channels that can be removed; what follows the block is numbered as in the analysis."""
    model, images = ResidualOnImages().eval(), torch.randn(2, 3, 8, 8)
    plan = prunelab.analyze(model, images).plan({"block.narrow": [1]}, dropped_blocks=["block"])
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, images) < TOLERANCE
