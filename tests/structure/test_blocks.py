"""Residual blocks are found by their function, and dropping one leaves exactly its shortcut."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.models import build
from prunelab.structure import observe

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32).sin()


class Branch(nn.Module):
    """A module that combines a branch f(x) with its input x as ``combine`` says."""

    def __init__(self, channels: int, combine: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(channels, 5, 3, padding=1), nn.Conv2d(5, channels, 3, padding=1)
        self.combine = combine

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(self.second(torch.tanh(self.first(x))), x)


def around(combine: Callable[[Tensor, Tensor], Tensor], before: nn.Module | None = None) -> nn.Sequential:
    stem = [nn.Conv2d(3, 6, 3, padding=1), before or nn.Identity()]
    return nn.Sequential(*stem, Branch(6, combine), nn.Conv2d(6, 2, 3))


def test_resnets() -> None:
    graph = prunelab.analyze(build("cifar_resnet20", 10), IMAGES)
    assert [block.name for block in graph.blocks] == [
        "layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"
    ]  # fmt: skip
    block = graph.blocks[3]
    assert block.stage == "layer2"
    assert block.groups == ("layer2.1.conv1",)
    assert block.exits == ("layer2.1.conv2.weight",)
    assert (block.leaves, block.parent) == ("identity", None)  # x has been through a ReLU already


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("resnet50", 12),
        ("mobilenetv2_100", 10),
        ("efficientnet_b0", 9),
        ("regnety_002", 9),
        ("vgg16_bn", 0),
        ("densenet121", 0),
    ],
)
def test_how_many_blocks_have_an_identity_shortcut(name: str, count: int) -> None:
    with torch.device("meta"):
        graph = prunelab.analyze(build(name, 10), torch.empty(1, 3, 64, 64))
    assert len(graph.blocks) == count


@pytest.mark.slow
def test_two_branches_in_one_block_go_together(lively: Callable[..., nn.Module]) -> None:
    """A transformer block adds attention and then a perceptron to its input."""
    model = build("test_vit", 10, img_size=32).eval()
    graph = prunelab.analyze(model, IMAGES)
    assert {block.name for block in graph.blocks} >= {
        f"blocks.{number}" for number in range(len(model.blocks))
    }
    plan = graph.plan({}, ["blocks.1"])
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    expected = copy.deepcopy(model)
    expected.blocks[1] = nn.Identity()
    with torch.no_grad():
        assert torch.equal(pruned(IMAGES), expected(IMAGES))
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9


FOUND: dict[str, tuple[nn.Sequential, str, Callable[[Tensor], Tensor]]] = {
    "f + x": (around(lambda f, x: f + x), "identity", lambda x: x),
    "x + f": (around(lambda f, x: x + f), "identity", lambda x: x),
    "add_": (around(lambda f, x: f.add_(x)), "identity", lambda x: x),
    "x + f in place": (around(lambda f, x: x.clone().add_(f)), "identity", lambda x: x),
    "relu after": (around(lambda f, x: F.relu(f + x)), "relu", F.relu),
    "relu before and after": (around(lambda f, x: F.relu(f + x), nn.ReLU()), "identity", F.relu),
    "relu in place": (around(lambda f, x: F.relu_(f + x)), "relu", F.relu),
    "relu6 after": (around(lambda f, x: F.relu6(f + x)), "relu6", F.relu6),
    "relu6 before and after": (around(lambda f, x: F.relu6(f + x), nn.ReLU6()), "identity", F.relu6),
    "relu before, relu6 after": (around(lambda f, x: F.relu6(f + x), nn.ReLU()), "relu6", F.relu6),
    "two branches": (around(lambda f, x: f + x + torch.sigmoid(f)), "identity", lambda x: x),
    "scaled branch": (around(lambda f, x: 0.1 * f + x), "identity", lambda x: x),
    "dropout": (around(lambda f, x: F.dropout(f + x, 0.5, training=False)), "identity", lambda x: x),
}


@pytest.mark.parametrize("case", FOUND)
def test_blocks_and_what_they_leave(prune: Callable[..., Any], case: str) -> None:
    model, leaves, function = FOUND[case]
    pruning = prune(copy.deepcopy(model), IMAGES, kept={}, dropped=["2"])
    (block,) = pruning.graph.blocks
    assert (block.name, block.leaves) == ("2", leaves)
    with torch.no_grad():
        expected = model[3](function(model[1](model[0](IMAGES))))
        torch.testing.assert_close(pruning.model(IMAGES), expected)
    assert pruning.error < 1e-9


NOT_FOUND: dict[str, nn.Sequential] = {
    "scaled shortcut": around(lambda f, x: f + 0.5 * x),
    "weighted addition": around(lambda f, x: torch.add(f, x, alpha=2)),
    "difference": around(lambda f, x: x - f),
    "product": around(lambda f, x: x * f),
    "gelu after": around(lambda f, x: F.gelu(f + x)),
    "leaky relu after": around(lambda f, x: F.leaky_relu(f + x)),
    "sigmoid after": around(lambda f, x: torch.sigmoid(f + x)),
    "a constant added": around(lambda f, x: f + x + 1),
    "the input mirrored": around(lambda f, x: f + x.flip(3)),
    "the input averaged": around(lambda f, x: f + x.mean((2, 3), keepdim=True)),
    "no shortcut": around(lambda f, x: f),
    "no branch": around(lambda f, x: x),
}


@pytest.mark.parametrize("case", NOT_FOUND)
def test_modules_that_are_not_blocks(case: str) -> None:
    assert prunelab.analyze(NOT_FOUND[case], IMAGES).blocks == ()


def test_a_module_that_runs_twice_is_no_block() -> None:
    block = Branch(6, torch.add)
    assert (
        prunelab.analyze(nn.Sequential(nn.Conv2d(3, 6, 1), block, block, nn.Conv2d(6, 2, 1)), IMAGES).blocks
        == ()
    )


def test_a_downsampling_block_is_no_block() -> None:
    graph = prunelab.analyze(build("cifar_resnet20", 10), IMAGES)
    assert not {"layer2.0", "layer3.0"} & {block.name for block in graph.blocks}


def test_blocks_inside_blocks(prune: Callable[..., Any]) -> None:
    inner = Branch(5, torch.add)
    outer = Branch(6, lambda f, x: F.relu(f + x))
    outer.second = nn.Sequential(inner, nn.Conv2d(5, 6, 1))
    model = nn.Sequential(nn.Conv2d(3, 6, 1), outer, nn.Conv2d(6, 2, 1))
    graph = prunelab.analyze(model, IMAGES)
    assert {block.name: block.parent for block in graph.blocks} == {"1": None, "1.second.0": "1"}
    (stage,) = (group.name for group in graph.groups if group.size == 6)
    for dropped in (["1"], ["1.second.0"], ["1", "1.second.0"]):
        pruning = prune(copy.deepcopy(model), IMAGES, kept={stage: [0, 2, 5]}, dropped=dropped)
        assert pruning.error < 1e-9


def test_a_string_of_blocks_is_not_a_block_itself() -> None:
    stage = nn.Sequential(*(Branch(6, torch.add) for _ in range(3)))
    graph = prunelab.analyze(nn.Sequential(nn.Conv2d(3, 6, 1), stage, nn.Conv2d(6, 2, 1)), IMAGES)
    assert [block.name for block in graph.blocks] == ["1.0", "1.1", "1.2"]


def test_all_blocks_of_a_stage_and_its_channels(prune: Callable[..., Any]) -> None:
    stage = nn.Sequential(*(Branch(6, lambda f, x: F.relu(f + x)) for _ in range(3)))
    model = nn.Sequential(nn.Conv2d(3, 6, 1), stage, nn.Conv2d(6, 2, 1))
    (name,) = (group.name for group in prunelab.analyze(model, IMAGES).at({"stage"}))
    pruning = prune(model, IMAGES, kept={name: [1, 4]}, dropped=["1.0", "1.1", "1.2"])
    assert pruning.error < 1e-9
    assert sum(parameter.numel() for parameter in pruning.model.parameters()) == 2 * 3 + 2 + 2 * 2 + 2


@pytest.mark.parametrize("name", ["cifar_resnet20", "cifar_mobilenetv2", "test_efficientnet"])
def test_the_branch_is_observed_before_it_is_added(
    randomise: Callable[[nn.Module], nn.Module], name: str
) -> None:
    """output = function(branch + input) at every block."""
    model = randomise(build(name, 10))
    graph = prunelab.analyze(model, IMAGES)
    branches: dict[str, Tensor] = {}
    passed: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        model.get_submodule(block.name).register_forward_hook(
            lambda m, given, out, name=block.name: passed.update({name: (given[0], out)})
        )
        for block in graph.blocks
    ]
    observers = {
        block.branch: lambda tensor, dim, name=block.name: branches.update({name: tensor.clone()})
        for block in graph.blocks
    }
    with torch.no_grad(), observe(model, observers):
        model(IMAGES)
    for handle in handles:
        handle.remove()
    assert set(branches) == {block.name for block in graph.blocks}
    for block, branch in branches.items():
        given, out = passed[block]
        total = F.relu(branch + given) if name == "cifar_resnet20" else branch + given
        torch.testing.assert_close(out, total)


def test_a_dropped_block_accepts_the_arguments_of_the_block(network: Any) -> None:
    """Blocks may take more than x; their replacement must as well."""

    class Conditional(Branch):
        def forward(self, x: Tensor, scale: float = 1.0, *, shift: float = 0.0) -> Tensor:
            return x + (scale + shift) * self.second(torch.tanh(self.first(x)))

    def forward(net: Any, x: Tensor) -> Tensor:
        return net.out(net.block(net.stem(x), 0.5, shift=0.25))

    parts = {"stem": nn.Conv2d(3, 6, 1), "block": Conditional(6, torch.add), "out": nn.Conv2d(6, 2, 1)}
    model = network(forward, **parts)
    graph = prunelab.analyze(model, IMAGES)
    plan = graph.plan({}, ["block"])
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    with torch.no_grad():
        torch.testing.assert_close(pruned(IMAGES), model.out(model.stem(IMAGES)))
    assert prunelab.check(model, pruned, plan, IMAGES) < 1e-9
