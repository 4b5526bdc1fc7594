"""A sliced network is the candidate of the same widths: its outputs, its gradients, its running statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.models import build
from prunelab.structure import ChannelGraph, PruningPlan, SlicedNetwork, analyze, candidate

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": lambda: build("cifar_resnet20", num_classes=10, shortcut="A"),  # index buffers
    "vgg16_bn": lambda: build("cifar_vgg16_bn", num_classes=10),
    "mobilenetv2": lambda: build("cifar_mobilenetv2", num_classes=10),
    "densenet121": lambda: timm.create_model("densenet121", num_classes=10),
    "efficientnet_b0": lambda: timm.create_model("efficientnet_b0", num_classes=10),
    "regnety_002": lambda: timm.create_model("regnety_002", num_classes=10),
    "convnext_atto": lambda: timm.create_model("convnext_atto", num_classes=10),
    "vit": lambda: timm.create_model(  # heads and written-out widths
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=10
    ),
}

LARGE = {"densenet121", "efficientnet_b0", "mobilenetv2", "regnety_002", "vgg16_bn"}


def _made(name: str) -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = NETWORKS[name]().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # initially constant
                parameter.uniform_(0.5, 1.5)
    return model.train(), analyze(model, IMAGES[:1])


def _plan(
    graph: ChannelGraph,
    widths: Mapping[str, int],
    order: Mapping[str, Sequence[int]],
    dropped: Sequence[str] = (),
) -> PruningPlan:
    kept = {n: sorted(order[n][:width] if n in order else range(width)) for n, width in widths.items()}
    return graph.plan(kept, dropped)


def _backward(model: nn.Module, images: Tensor) -> Tensor:
    torch.manual_seed(1)  # dropout, stochastic depth
    out = model(images)
    torch.nn.functional.cross_entropy(out, torch.arange(len(images))).backward()
    return out.detach()


def _part(plan: PruningPlan, name: str, tensor: Tensor) -> Tensor:
    for cut in plan.cuts_by_tensor().get(name, []):
        tensor = tensor.index_select(cut.dim, torch.tensor(cut.indices))
    return tensor


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.shape == expected.shape, what
    scale = expected.abs().max().clamp(min=1e-6)
    assert (found - expected).abs().max() / scale < 1e-8, what


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS]
)
def test_outputs_gradients_and_statistics_are_those_of_the_candidate(name: str, ordered: bool) -> None:
    model, graph = _made(name)
    generator = np.random.default_rng(int(ordered))
    order = {g.name: generator.permutation(g.size).tolist() for g in graph.groups} if ordered else {}
    widths = {g.name: int(generator.integers(1, g.size + 1)) for g in graph.groups}
    droppable = [block.name for block in graph.blocks if block.parent is None]
    dropped = [block for block in droppable if generator.random() < 0.3] or droppable[:1]
    plan = _plan(graph, widths, order, dropped)
    pruned = candidate(model, plan)
    expected = _backward(pruned, IMAGES)
    with SlicedNetwork(model, graph, order).at(widths, dropped):
        found = _backward(model, IMAGES)
    _close(found, expected, "outputs")
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for path, parameter in pruned.named_parameters():
        own = parameters[path].grad
        assert (own is None) == (parameter.grad is None), path
        if own is not None and parameter.grad is not None:
            _close(_part(plan, path, own), parameter.grad, path)
            total = own.abs().sum()
            assert torch.isclose(total, parameter.grad.abs().sum()), f"{path}: removed channels get zeros"
    for path, buffer in pruned.named_buffers():
        if path.endswith(("running_mean", "running_var", "num_batches_tracked")):
            _close(_part(plan, path, buffers[path]).double(), buffer.double(), path)


@pytest.mark.parametrize("name", ["resnet20", "vit"])
def test_the_network_is_untouched_afterwards(name: str) -> None:
    model, graph = _made(name)
    model.eval()
    before = copy.deepcopy(model)
    sliced = SlicedNetwork(model, graph)
    parameters = {path: id(parameter) for path, parameter in model.named_parameters()}
    halved = [max(1, group.size // 2) for group in graph.groups]
    with sliced.at(halved, [graph.blocks[0].name]):
        model(IMAGES)
    with pytest.raises(ZeroDivisionError), sliced.at(halved):
        1 / 0  # noqa: B018
    assert str(model) == str(before)
    assert {path: id(parameter) for path, parameter in model.named_parameters()} == parameters
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before.buffers(), strict=True))
    assert torch.equal(model(IMAGES), before(IMAGES))


def test_tied_weights_share_their_gradient() -> None:
    tied = nn.Linear(6, 6)
    again = nn.Linear(6, 6)
    again.weight = tied.weight
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), tied, nn.ReLU(), again, nn.Linear(6, 3)).double()
    images = torch.randn(3, 4, dtype=torch.float64)
    graph = analyze(model, images)
    widths = {group.name: 3 for group in graph.groups}
    pruned = candidate(model, _plan(graph, widths, {}))
    expected = _backward(pruned, images)
    with SlicedNetwork(model, graph).at(widths):
        found = _backward(model, images)
    _close(found, expected, "outputs")
    assert tied.weight.grad is not None
    _close(tied.weight.grad[:3, :3], pruned[2].weight.grad, "gradient")


def test_arithmetic_shrinks() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model, graph = _made("resnet20")
    sliced = SlicedNetwork(model, graph)
    widths = [max(1, group.size // 2) for group in graph.groups]
    with FlopCounterMode(display=False) as counted, sliced.at(widths):
        model(IMAGES)
    macs = graph.cost.macs(np.array(widths))
    assert counted.get_total_flops() == 2 * macs * len(IMAGES)


def test_tensors_of_full_size_stand_in_for_the_own() -> None:
    """Generated weights are cut like the network's own weights, and gradients reach the generator."""
    model, graph = _made("vgg16_bn")
    widths = {group.name: max(1, group.size // 3) for group in graph.groups}
    name, own = next((n, p) for n, p in model.named_parameters() if p.dim() == 4)
    generated = torch.randn_like(own, requires_grad=True)
    with SlicedNetwork(model, graph).at(widths, tensors={name: generated}):
        found = _backward(model, IMAGES)
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.get_parameter(name).copy_(generated)
    pruned = candidate(other, _plan(graph, widths, {}))
    _close(found, _backward(pruned, IMAGES), "outputs")
    assert generated.grad is not None and own.grad is None
    _close(generated.grad[: pruned.get_parameter(name).shape[0]], pruned.get_parameter(name).grad, "gradient")


@pytest.mark.slow
def test_a_compiled_network_follows_the_widths() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.BatchNorm2d(6), nn.Flatten(),
        nn.Linear(6 * 28 * 28, 10),
    ).double()  # fmt: skip
    sliced = SlicedNetwork(model, analyze(model, IMAGES))
    compiled: Any = torch.compile(model, backend="aot_eager")
    for widths in ([8, 6], [3, 5], [5, 2], [8, 1]):
        found, gradients = [], []
        for network in (model, compiled):
            model.zero_grad()
            with sliced.at(widths):
                found.append(_backward(network, IMAGES))
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        _close(found[1], found[0], "outputs")
        for gradient, expected in zip(*gradients, strict=True):
            _close(gradient, expected, "gradient")
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("widths", "dropped", "words"),
    [
        ({"nowhere": 1}, [], "nowhere"),
        ({"layer1": 0}, [], "between 1 and 16"),
        ({"layer1": 17}, [], "between 1 and 16"),
        ([1, 2], [], "2 widths"),
        ({}, ["layer1.7"], "layer1.7"),
    ],
)
def test_bad_input_is_an_error(widths: Any, dropped: list[str], words: str) -> None:
    model, graph = _made("resnet20")
    sliced = SlicedNetwork(model, graph)
    with pytest.raises(UserError, match=words), sliced.at(widths, dropped):
        pass
    with sliced.at({}):  # usable afterwards
        model(IMAGES)


def test_an_order_names_each_channel_once() -> None:
    model, graph = _made("resnet20")
    with pytest.raises(UserError, match="layer1"):
        SlicedNetwork(model, graph, {"layer1": [0] * 16})


def test_autocast_gives_the_outputs_of_the_candidate() -> None:
    model, graph = _made("resnet20")
    model, images = model.float(), IMAGES.float()
    widths = {group.name: max(1, group.size // 2) for group in graph.groups}
    pruned = candidate(model, _plan(graph, widths, {}))
    with torch.autocast("cpu", torch.bfloat16):
        expected = _backward(pruned, images)
        with SlicedNetwork(model, graph).at(widths):
            found = _backward(model, images)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)
    own = dict(model.named_parameters())
    for path, parameter in pruned.named_parameters():
        whole = own[path].grad
        assert whole is not None and parameter.grad is not None and whole.dtype == torch.float32
        cut = _part(_plan(graph, widths, {}), path, whole)
        assert torch.equal(cut, parameter.grad), path


@pytest.mark.slow
def test_gradients_of_several_widths_accumulate() -> None:
    """Two micro-batches at different widths add up, each in its own part."""
    model, graph = _made("vgg16_bn")
    sliced = SlicedNetwork(model, graph)
    alone = []
    for share in (2, 3):
        model.zero_grad()
        with sliced.at([max(1, group.size // share) for group in graph.groups]):
            _backward(model, IMAGES)
        alone.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    for share in (2, 3):
        with sliced.at([max(1, group.size // share) for group in graph.groups]):
            _backward(model, IMAGES)
    for parameter, first, second in zip(model.parameters(), *alone, strict=True):
        assert parameter.grad is not None
        _close(parameter.grad, first + second, "gradient")


def test_several_widths_share_one_backward_pass() -> None:
    """Statistics that a later pass updates do not disturb the gradients of an earlier one."""
    model, graph = _made("resnet20")
    order = {group.name: list(range(group.size))[::-1] for group in graph.groups}
    sliced = SlicedNetwork(model, graph, order)
    losses = []
    for share in (1, 2, 1):
        with sliced.at([max(1, group.size // share) for group in graph.groups]):
            losses.append(model(IMAGES).square().mean())
    torch.stack(losses).sum().backward()
