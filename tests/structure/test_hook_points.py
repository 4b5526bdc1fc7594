"""Hook points name the tensors that consumers read; ``observe`` passes them to observers in any pass of the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab import ChannelGraph
from prunelab.errors import UserError
from prunelab.models import build
from prunelab.structure import HookPoint, channels_first, observe

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def observed(model: nn.Module, graph: ChannelGraph, inputs: Any = IMAGES) -> dict[HookPoint, Tensor]:
    """The tensor at every hook point of every group in one pass."""
    seen: dict[HookPoint, Tensor] = {}
    hook_points = {found.hook_point for group in graph.groups for found in group.hook_points}
    with observe(
        model,
        {
            hook_point: lambda tensor, dim, hook_point=hook_point: seen.update({hook_point: tensor})
            for hook_point in hook_points
        },
    ):
        model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    assert set(seen) == hook_points
    return seen


def outputs_of(model: nn.Module, paths: Iterable[str]) -> dict[str, Tensor]:
    """The outputs of these modules in one pass."""
    seen: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda m, a, out, path=path: seen.update({path: out}))
        for path in paths
    ]
    model(IMAGES)
    for handle in handles:
        handle.remove()
    return seen


def assert_taps(model: nn.Module, expected: dict[str, list[str]]) -> None:
    """Group -> the modules whose outputs its hook points are, in forward order."""
    model.eval()
    graph = prunelab.analyze(model, IMAGES)
    seen = observed(model, graph)
    modules = outputs_of(model, {path for paths in expected.values() for path in paths})
    for name, paths in expected.items():
        tensors = [seen[found.hook_point] for found in graph.group(name).hook_points]
        assert len(tensors) == len(paths), name
        for tensor, path in zip(tensors, paths, strict=True):
            torch.testing.assert_close(tensor, modules[path], rtol=0, atol=0)


def test_activations_are_read_after_the_activation_function_and_before_pooling() -> None:
    layers = [conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 6), nn.SiLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    assert_taps(model, {"0": ["2"], "4": ["5"]})


def test_resnet_taps(randomise: Callable[[nn.Module], nn.Module]) -> None:
    """A filter group after its ReLU; a stage after the ReLU of each of its sums."""
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3)]
    stages = {f"layer{stage}": [f"layer{stage}.{block}.relu2" for block in range(3)] for stage in (1, 2, 3)}
    stages["layer1"].insert(0, "relu")
    model = randomise(build("cifar_resnet20", 10))
    assert_taps(model, stages | {f"{block}.conv1": [f"{block}.relu1"] for block in blocks})


def test_vgg_taps_are_before_pooling() -> None:
    model = build("cifar_vgg16_bn", 10).eval()
    graph = prunelab.analyze(model, IMAGES)
    seen = observed(model, graph)
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    found = [seen[group.hook_points[0].hook_point] for group in graph.groups]
    assert [tensor.shape[-1] for tensor in found] == sides
    assert all(float(tensor.detach().min()) == 0 for tensor in found)


def test_functional_code_is_observed_like_modules(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        return net.last(F.max_pool2d(F.relu(net.norm(net.conv(x))), 4).flatten(1))

    model = network(forward, conv=conv(3, 8), norm=nn.BatchNorm2d(8), last=nn.Linear(512, 3)).eval()
    graph = prunelab.analyze(model, IMAGES)
    (tensor,) = observed(model, graph).values()
    assert torch.equal(tensor, F.relu(model.norm(model.conv(IMAGES))))


def test_concatenated_groups_share_a_tap_at_their_own_positions() -> None:
    """A layer of a DenseNet reads the activation of all previous concatenated features."""
    model = timm.create_model("densenet121", block_config=(2, 2), growth_rate=8).eval()
    graph = prunelab.analyze(model, IMAGES)
    stem = graph.group("features.conv0")
    first, second = (graph.group(f"features.denseblock1.denselayer{layer}.conv2") for layer in (1, 2))
    shared = {found.hook_point: found.positions for found in stem.hook_points}
    for group, start in ((first, 16), (second, 24)):
        places = {found.hook_point: found.positions[:, 0].tolist() for found in group.hook_points}
        together = [hook_point for hook_point in places if hook_point in shared]
        assert together
        for hook_point in together:
            assert hook_point.width > 16
            assert shared[hook_point][:, 0].tolist() == list(range(16))
            assert places[hook_point] == list(range(start, start + 8))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cifar_resnet20", {}),
        ("cifar_mobilenetv2", {}),
        ("densenet121", {"block_config": (2, 2), "growth_rate": 8}),
        ("test_efficientnet", {}),
        ("test_vit", {"img_size": 32}),
    ],
)
def test_positions_are_those_of_the_channel(
    randomise: Callable[[nn.Module], nn.Module], name: str, arguments: dict[str, Any]
) -> None:
    """Another filter k changes the tapped tensor at the positions of channel k and nowhere else.

    The first hook point of a group is tested; later ones change through the layers in between.
    """
    model = randomise(build(name, 10, **arguments))
    graph = prunelab.analyze(model, IMAGES)
    before = observed(model, graph)
    checked = 0
    for group in graph.groups[::3]:
        if not group.hook_points or not group.exact or not group.producers:
            continue
        hook_point, positions = group.hook_points[0].hook_point, group.hook_points[0].positions
        channel = group.size // 2
        producer = group.producers[0]
        weight = model.get_parameter(producer.parameter)
        kept = weight.data.clone()
        weight.data.index_fill_(producer.dim, torch.tensor(producer.index[channel]), 0.7)
        after = observed(model, graph)
        weight.data.copy_(kept)
        changed = (before[hook_point] != after[hook_point]).movedim(hook_point.dim, 0).flatten(1).any(1)
        assert set(changed.nonzero().flatten().tolist()) <= set(positions[channel].tolist()), group.name
        checked += bool(changed.any())
    assert checked >= 3


def test_a_shared_layer_is_read_in_every_use(network: Any) -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(net.shared(x))
        return net.out(x)

    model = network(forward, shared=conv(3, 3), out=conv(3, 2))
    stem = nn.Sequential(conv(3, 3), model).eval()
    graph = prunelab.analyze(stem, IMAGES)
    assert len(graph.group("0").hook_points) == 4


def test_the_observed_tensor_carries_gradients(randomise: Callable[[nn.Module], nn.Module]) -> None:
    model = randomise(build("cifar_resnet20", 10)).train()
    graph = prunelab.analyze(model, IMAGES)
    hook_point = graph.group("layer2.1.conv1").hook_points[0].hook_point
    gradients: list[Tensor] = []

    def keep(tensor: Tensor, dim: int) -> None:
        assert (dim, tensor.shape[1]) == (1, 32)
        tensor.register_hook(gradients.append)

    relu = model.get_submodule("layer2.1.relu1")
    expected: list[Tensor] = []
    handle = relu.register_forward_hook(lambda m, a, out: out.register_hook(expected.append) and None)
    with observe(model, {hook_point: keep}):
        model(IMAGES).logsumexp(1).sum().backward()
    handle.remove()
    assert gradients[0].abs().sum() > 0
    assert torch.equal(gradients[0], expected[0])


@pytest.mark.parametrize("training", [False, True])
def test_every_pass_is_observed_in_training_and_in_evaluation(training: bool) -> None:
    layers = [
        conv(3, 8),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        conv(8, 6),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
    ]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)).train(training)
    graph = prunelab.analyze(model, IMAGES)
    (hook_point,) = (found.hook_point for found in graph.group("4").hook_points)
    seen: list[Tensor] = []
    expected: list[Tensor] = []
    handle = model[6].register_forward_hook(lambda m, a, out: expected.append(out))
    with observe(model, {hook_point: lambda tensor, dim: seen.append(tensor)}):
        model(IMAGES)
        model(IMAGES[:1])
    model(IMAGES)
    handle.remove()
    assert len(seen) == 2
    assert all(torch.equal(one, other) for one, other in zip(seen, expected, strict=False))


def test_two_observers_at_once_and_none_after() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 2)).eval()
    graph = prunelab.analyze(model, IMAGES)
    first, second = (group.hook_points[0].hook_point for group in graph.groups)
    seen: list[str] = []
    with observe(model, {first: lambda t, d: seen.append("first")}):
        with observe(
            model, {second: lambda t, d: seen.append("second"), first: lambda t, d: seen.append("again")}
        ):
            model(IMAGES)
        model(IMAGES)
    model(IMAGES)
    assert sorted(seen) == ["again", "first", "first", "second"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_an_observer_may_compute(network: Any) -> None:
    """Computations of an observer are not part of the network's calls."""
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 6), nn.ReLU(), conv(6, 2)).eval()
    graph = prunelab.analyze(model, IMAGES)
    means: list[Tensor] = []
    hook_points = [group.hook_points[0].hook_point for group in graph.groups]
    with observe(
        model,
        {hook_point: lambda t, d: means.append(F.relu(t).mean((0, 2, 3))) for hook_point in hook_points},
    ):
        model(IMAGES)
    assert [len(mean) for mean in means] == [8, 6]


def test_a_failing_pass_leaves_nothing_open() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2)).eval()
    graph = prunelab.analyze(model, IMAGES)
    hook_point = graph.groups[0].hook_points[0].hook_point
    calls: list[int] = []
    with observe(model, {hook_point: lambda t, d: calls.append(len(t))}):
        with pytest.raises(RuntimeError):
            model(IMAGES[:, :2])
        torch.relu(IMAGES)
        assert calls == []
        model(IMAGES)
    assert calls == [2]


def test_a_network_that_was_pruned_meanwhile_is_an_error() -> None:
    model = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 2)).eval()
    graph = prunelab.analyze(model, IMAGES)
    prunelab.apply(model, graph.plan({"0": [1, 2]}))
    with (
        observe(model, {graph.groups[0].hook_points[0].hook_point: lambda t, d: None}),
        pytest.raises(UserError, match="8 channels"),
    ):
        model(IMAGES)


def test_channels_first() -> None:
    tokens = torch.arange(24).reshape(2, 3, 4)
    assert channels_first(tokens, 2).shape == (2, 4, 3)
    assert torch.equal(channels_first(tokens, 2)[:, 1], tokens[:, :, 1])
    assert channels_first(tokens, 1) is tokens
