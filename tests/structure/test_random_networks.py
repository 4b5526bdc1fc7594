"""Random small networks and plans: every analysed network can be pruned, has the predicted cost and is exact."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import prunelab
from prunelab import PruningPlan
from prunelab.errors import UserError

pytestmark = pytest.mark.slow

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


class Parallel(nn.Module):
    """The outputs of several modules for the same input, joined by ``join``."""

    def __init__(self, join: Callable[[list[Tensor]], Tensor], *parts: nn.Module) -> None:
        super().__init__()
        self.join, self.parts = join, nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        return self.join([part(x) for part in self.parts])


def added(tensors: list[Tensor]) -> Tensor:
    return tensors[0] + tensors[1]


def concatenated(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors, 1)


def gated(tensors: list[Tensor]) -> Tensor:
    return tensors[0] * torch.sigmoid(tensors[1])


@st.composite
def convolutions(draw: st.DrawFn, inputs: int, outputs: int, groups: int = 1) -> nn.Module:
    """A convolution, perhaps with a norm, perhaps with an activation function."""
    kernel, norm = draw(st.sampled_from([1, 3])), draw(st.booleans())
    layers: list[nn.Module] = [
        nn.Conv2d(
            inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=not norm or draw(st.booleans())
        )
    ]
    if norm:
        layers.append(nn.BatchNorm2d(outputs))
    activation = draw(
        st.sampled_from(
            [None, nn.ReLU(), nn.ReLU(inplace=True), nn.SiLU(), nn.LeakyReLU(), nn.PReLU(outputs)]
        )
    )
    return nn.Sequential(*layers, *([copy.deepcopy(activation)] if activation is not None else []))


@st.composite
def chains(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Sequential, int]:
    """One to three random units after one another, and how many channels come out."""
    units = []
    for _ in range(draw(st.integers(1, 3))):
        unit, inputs = draw(UNITS[draw(st.sampled_from(sorted(UNITS)))](inputs, depth))
        units.append(unit)
    return nn.Sequential(*units), inputs


@st.composite
def plain(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    width = draw(st.integers(1, 7))
    return draw(convolutions(inputs, width)), width


@st.composite
def residual(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    inside, width = draw(chains(inputs, depth - 1) if depth else plain(inputs, 0))
    branch = nn.Sequential(inside, draw(convolutions(width, inputs)))
    parts = [nn.Identity(), branch] if draw(st.booleans()) else [branch, nn.Identity()]
    block = Parallel(added, *parts)
    return nn.Sequential(block, nn.ReLU()) if draw(st.booleans()) else block, inputs


@st.composite
def projected(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    inside, width = draw(chains(inputs, depth - 1) if depth else plain(inputs, 0))
    return Parallel(added, nn.Conv2d(inputs, width, 1), inside), width


@st.composite
def dense(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    inside, width = draw(chains(inputs, depth - 1) if depth else plain(inputs, 0))
    parts = [nn.Identity(), inside] if draw(st.booleans()) else [inside, nn.Identity()]
    return Parallel(concatenated, *parts), inputs + width


@st.composite
def depthwise(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    multiplier = draw(st.integers(1, 2))
    return draw(convolutions(inputs, inputs * multiplier, groups=inputs)), inputs * multiplier


@st.composite
def grouped(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    middle, width = 2 * draw(st.integers(1, 4)), 2 * draw(st.integers(1, 4))
    return nn.Sequential(
        draw(convolutions(inputs, middle)), draw(convolutions(middle, width, groups=2))
    ), width


@st.composite
def squeeze_and_excitation(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    width = draw(st.integers(1, 4))
    pool = nn.AdaptiveAvgPool2d(1)
    gate = nn.Sequential(pool, nn.Conv2d(inputs, width, 1), nn.ReLU(), nn.Conv2d(width, inputs, 1))
    return Parallel(gated, nn.Identity(), gate), inputs


@st.composite
def halved(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    width = draw(st.integers(1, 5))
    return nn.Sequential(draw(convolutions(inputs, 2 * width)), nn.GLU(1)), width


@st.composite
def shuffled(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    width = draw(st.integers(1, 4))
    return nn.Sequential(draw(convolutions(inputs, 4 * width)), nn.PixelShuffle(2), nn.MaxPool2d(2)), width


@st.composite
def normalised(draw: st.DrawFn, inputs: int, depth: int) -> tuple[nn.Module, int]:
    groups = draw(st.sampled_from([1, 2, 3, 8]))
    width = groups * draw(st.integers(1, 3))
    return nn.Sequential(draw(convolutions(inputs, width)), nn.GroupNorm(groups, width)), width


UNITS: dict[str, Callable[[int, int], Any]] = {
    "plain": plain,
    "residual": residual,
    "projected": projected,
    "dense": dense,
    "depthwise": depthwise,
    "grouped": grouped,
    "squeeze": squeeze_and_excitation,
    "halved": halved,
    "shuffled": shuffled,
    "normalised": normalised,
}


@st.composite
def networks(draw: st.DrawFn) -> nn.Sequential:
    """Images (N, 3, 8, 8) to 4 numbers, by pooling or by flattening."""
    torch.manual_seed(draw(st.integers(0, 3)))
    body, width = draw(chains(3, depth=2))
    if draw(st.booleans()):
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4)]
    else:
        head = [nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * width, 4)]
    return nn.Sequential(body, *head)


@settings(max_examples=120)
@given(model=networks(), seed=st.integers(0, 2**32 - 1), exact=st.booleans(), whole=st.booleans())
def test_any_network_any_plan(
    prune: Callable[..., Any],
    outputs: Callable[..., Any],
    model: nn.Module,
    seed: int,
    exact: bool,
    whole: bool,
) -> None:
    # parameters and FLOPs are compared inside
    pruning = prune(model, IMAGES, seed=seed, exact=exact, cardinality=whole)
    event(f"blocks dropped: {len(pruning.plan.dropped_blocks)}")
    assert exact <= (not pruning.inexact)
    assert set(pruning.inexact.values()) <= {"native_group_norm over channels"}
    event(f"inexact groups: {len(pruning.inexact)}")
    if not pruning.inexact:
        assert pruning.error < 1e-9
    for group in pruning.graph.groups:
        kept = len(pruning.plan.kept[group.name])
        for found in group.slices:
            before = pruning.original.state_dict()[found.parameter].shape[found.dim]
            assert before >= group.size * found.index.shape[1]
        assert pruning.plan.widths[group.name] == (group.size, kept)
    (out,) = outputs(pruning.model, IMAGES)
    assert out.shape == (2, 4)


@settings(max_examples=60)
@given(model=networks(), seed=st.integers(0, 2**32 - 1))
def test_consumers_silenced_by_hand(
    prune: Callable[..., Any],
    masked_by_hand: Callable[..., Any],
    outputs: Callable[..., Any],
    model: nn.Module,
    seed: int,
) -> None:
    """The reference uses the weights that read each group, not the masks of the engine."""
    pruning = prune(model, IMAGES, seed=seed, drop=0.0, exact=True)
    expected = masked_by_hand(pruning.original, pruning.graph, pruning.plan, IMAGES)
    torch.testing.assert_close(outputs(pruning.model, IMAGES), expected, rtol=1e-9, atol=1e-9)


def is_complete(graph: prunelab.ChannelGraph, plan: PruningPlan) -> bool:
    """Whether a plan of two rounds contains only groups of the full network. A grouped convolution with one remaining
    channel per group is depthwise, and one with one remaining channel is ordinary: the second round may then remove
    channels that the groups of the full network cannot express."""
    sizes = {group.name: group.size for group in graph.groups}
    return all(sizes.get(name) == before for name, (before, _) in plan.widths.items())


@settings(max_examples=40)
@given(model=networks(), seeds=st.tuples(*[st.integers(0, 2**32 - 1)] * 2))
def test_two_rounds_are_one(
    random_plan: Callable[..., PruningPlan],
    outputs: Callable[..., Any],
    model: nn.Module,
    seeds: tuple[int, int],
) -> None:
    model.eval()
    graph = prunelab.analyze(model, IMAGES)
    first = random_plan(graph, seeds[0])
    twice = prunelab.apply(copy.deepcopy(model), first)
    second = random_plan(prunelab.analyze(twice, IMAGES), seeds[1])
    prunelab.apply(twice, second)
    together = PruningPlan.from_json(first.compose(second).to_json())
    once = prunelab.apply(copy.deepcopy(model), together)
    assert [tensor.shape for tensor in once.parameters()] == [tensor.shape for tensor in twice.parameters()]
    torch.testing.assert_close(outputs(once, IMAGES), outputs(twice, IMAGES), rtol=0, atol=0)
    event(f"complete: {is_complete(graph, together)}")
    if is_complete(graph, together):
        assert graph.cost.params(together) == sum(parameter.numel() for parameter in twice.parameters())
        assert graph.plan(together.kept, together.dropped_blocks).cuts == together.cuts
    else:
        with pytest.raises(UserError, match="this network"):
            graph.cost.params(together)
