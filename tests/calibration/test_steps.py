"""Calibration steps on networks with a known result."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.calibration import (
    STEPS,
    BatchNorm,
    Bias,
    Blockwise,
    Distil,
    LeastSquares,
    Pair,
    chosen_steps,
    title,
)
from prunelab.calibration.distil import mixed
from prunelab.errors import UserError
from prunelab.structure import analyze, apply


class Residual(nn.Module):
    """A stem, two residual blocks with a shortcut convolution in the second, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.first = Block(6, 6, 1)
        self.second = Block(6, 8, 2)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        return self.head(self.second(self.first(x)).mean(dim=(2, 3)))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.short: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(inner + self.short(x))


def settled(model: nn.Module, images: Tensor, seed: int = 0) -> nn.Module:
    """The network in evaluation mode, with random scales and the statistics of these images."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data = 0.5 + torch.rand(module.weight.shape, generator=generator)
            module.bias.data = torch.randn(module.bias.shape, generator=generator) * 0.3
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def pair_of(model: nn.Module, kept: Mapping[str, Sequence[int]], images: Tensor, batch: int = 16) -> Pair:
    """The network, and the network pruned to these channels of these groups."""
    plan = analyze(model, images[:1]).plan(kept)
    pruned = apply(copy.deepcopy(model), plan)
    return Pair(model, pruned, plan, list(images.split(batch)), images[:1])


def difference(pair: Pair, images: Tensor) -> float:
    """The mean squared difference of the outputs, relative to those of the full network."""
    with torch.no_grad():
        full, pruned = pair.full(images), pair.pruned(images)
    return float((full - pruned).square().mean() / full.square().mean())


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def kept(model: nn.Module, images: Tensor, drop: int = 2) -> dict[str, list[int]]:
    return {group.name: list(range(group.size - drop)) for group in analyze(model, images[:1]).groups}


def mobile(kernel: int = 1) -> nn.Sequential:
    """A pointwise convolution, a depthwise one without padding, and one that reads them."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Conv2d(6, 5, kernel, bias=False), nn.BatchNorm2d(5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip


def test_a_channel_of_scale_zero_is_removed_without_loss_by_the_bias_step(images: Tensor) -> None:
    model = settled(mobile(), images)
    model[1].weight.data[2] = 0.0
    model[1].bias.data[2] = 0.9  # so that it is not 0 after the activation functions
    model[4].weight.data[2], model[4].bias.data[2] = 0.1, 2.0
    pair = pair_of(model, {"0": [0, 1, 3, 4, 5]}, images)
    assert difference(pair, images) > 1e-3
    Bias()(pair)
    assert difference(pair, images) < 1e-10


def test_the_bias_step_adds_the_mean_of_removed_contributions(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))
    pair = pair_of(model, {"0": [0, 3]}, images)
    with torch.no_grad():
        hidden = model[1](model[0](images))
        removed = hidden.clone()
        removed[:, [0, 3]] = 0
        missing = nn.functional.conv2d(removed, model[2].weight, padding=1).mean(dim=(0, 2, 3))
    Bias()(pair)
    assert torch.allclose(pair.pruned[2].bias - model[2].bias, missing, atol=1e-6)


def test_layers_without_a_place_for_a_constant_do_not_change(images: Tensor) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, bias=False))
    pair = pair_of(model, {"0": [0, 3]}, images)
    before = copy.deepcopy(pair.pruned.state_dict())
    Bias()(pair)
    assert all(torch.equal(before[name], value) for name, value in pair.pruned.state_dict().items())


@pytest.mark.parametrize("sequential", [False, True])
@pytest.mark.parametrize(
    "reader",
    [
        nn.Conv2d(6, 5, 3, stride=2, padding=1),
        nn.Conv2d(6, 6, 3, groups=2, dilation=2),
        nn.Conv2d(6, 4, 1, padding="same"),
        nn.Sequential(nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 3, 1)),
        nn.Sequential(nn.Flatten(), nn.Linear(384, 7)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7)),
    ],
    ids=["3x3 stride 2", "grouped", "1x1", "depthwise", "flattened", "pooled"],
)
def test_least_squares_reproduces_layers_that_read_duplicates(
    images: Tensor, reader: nn.Module, sequential: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.ReLU(), copy.deepcopy(reader)).eval()
    for part in (0, 3) if getattr(reader, "groups", 1) == 2 else (0,):
        twin, original = part + 2, part
        model[0].weight.data[twin] = 1.5 * model[0].weight.data[original]
        model[0].bias.data[twin] = 1.5 * model[0].bias.data[original]
    group = analyze(model, images[:1]).groups[0]
    left = [channel for channel in range(group.size) if channel != 2]
    if isinstance(reader, nn.Sequential) and isinstance(reader[0], nn.Conv2d):  # also the twin's filters
        model[2][0].weight.data[2] = model[2][0].weight.data[0]
        model[2][0].bias.data[2] = 0.0
        model[2][0].bias.data[0] = 0.0
    pair = pair_of(model, {group.name: left}, images)
    assert difference(pair, images) > 1e-4
    LeastSquares(sequential, ridges=(1e-9,), folds=1)(pair)
    assert difference(pair, images) < 1e-6


def test_a_stage_with_a_twin_is_pruned_without_loss(images: Tensor) -> None:
    torch.manual_seed(1)
    model = settled(Residual(), images)
    for norm in (model.norm, model.first.bn2):
        conv = model.stem if norm is model.norm else model.first.conv2
        conv.weight.data[5] = conv.weight.data[1]
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor[5] = tensor[1]
    stage = next(
        group.name
        for group in analyze(model, images[:1]).groups
        if group.size == 6 and group.level == "stage"
    )
    pair = pair_of(model, {stage: [0, 1, 2, 3, 4]}, images)
    assert difference(pair, images) > 1e-3
    LeastSquares(ridges=(1e-9,), folds=1)(pair)
    assert difference(pair, images) < 1e-6


@pytest.mark.slow
def test_every_step_brings_the_outputs_nearer(images: Tensor) -> None:
    torch.manual_seed(0)
    model = settled(Residual(), images)
    unseen = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    found = {}
    for name, step in {
        "bias": Bias(),
        "joint": LeastSquares(sequential=False),
        "sequential": LeastSquares(),
        "without sums": LeastSquares(sums=False),
        "blockwise": Blockwise(steps=60),
        "distil": Distil(steps=60),
    }.items():
        pair = pair_of(model, kept(model, images), images)
        found["cut"] = difference(pair, unseen)
        step(pair)
        found[name] = difference(pair, unseen)
    assert all(found[name] < 0.9 * found["cut"] for name in found if name != "cut"), found
    assert found["sequential"] < min(found["joint"], found["bias"]), found


def test_a_layer_at_the_end_of_a_block_makes_up_for_the_error_of_the_shortcut(images: Tensor) -> None:
    torch.manual_seed(0)
    model = settled(Residual(), images)
    errors = []
    for sums in (False, True):
        pair = pair_of(model, {"second.conv1": [0, 1]}, images)
        LeastSquares(sums=sums, ridges=(1e-4,), folds=1)(pair)
        errors.append(difference(pair, images))
    assert errors[1] < errors[0]


def test_batch_norm_statistics_are_those_of_the_pruned_network(images: Tensor) -> None:
    model = settled(Residual(), images)
    pair = pair_of(model, kept(model, images), images)
    BatchNorm()(pair)
    with torch.no_grad():
        means = [pair.pruned.stem(batch).mean(dim=(0, 2, 3)) for batch in pair.batches]
    assert torch.allclose(pair.pruned.norm.running_mean, torch.stack(means).mean(dim=0), atol=1e-6)


@pytest.mark.parametrize("name", STEPS)
def test_steps_do_not_change_the_full_network_and_the_modes(name: str, images: Tensor) -> None:
    model = settled(Residual(), images)
    pair = pair_of(model, kept(model, images), images)
    pair.pruned.train()
    before = copy.deepcopy(model.state_dict())
    small = {"blockwise": Blockwise(steps=2), "distil": Distil(steps=2)}
    small.get(name, STEPS[name])(pair)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert pair.pruned.training and not model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in pair.pruned.parameters())
    assert not [module for module in (*model.modules(), *pair.pruned.modules()) if module._forward_hooks]


@pytest.mark.parametrize("name", STEPS)
def test_results_are_independent_of_the_batch_size(name: str, images: Tensor) -> None:
    if name == "bn":
        pytest.skip("a mean over batches")
    model = settled(Residual(), images)
    small = {"blockwise": Blockwise(steps=2), "distil": Distil(steps=2)}
    outputs = []
    for batch in (16, 48):
        pair = pair_of(model, kept(model, images), images, batch)
        small.get(name, STEPS[name])(pair)
        outputs.append(pair.pruned(images))
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)


def test_mixed_images_are_means_of_two() -> None:
    mixtures = mixed(torch.eye(5)[:, :, None, None], torch.Generator().manual_seed(3))[:, :, 0, 0]
    assert ((mixtures >= 0) & (mixtures <= 1)).all() and ((mixtures > 0).sum(dim=1) <= 2).all()
    torch.testing.assert_close(mixtures.sum(dim=1), torch.ones(5))
    assert (mixtures.diagonal() > 0).all() and (mixtures - torch.eye(5)).abs().max() > 0.1


def test_names_of_steps() -> None:
    assert [title(step) for step in chosen_steps(["bias", LeastSquares(), Distil(steps=7)])] == [
        "bias",
        "sequential",
        repr(Distil(steps=7)),
    ]
    with pytest.raises(UserError, match=r"recipe\.calibration.*sequentiel.*sequential"):
        chosen_steps(["sequentiel"])
    with pytest.raises(UserError, match=r"recipe\.calibration='bn'"):
        chosen_steps("bn")
    with pytest.raises(UserError, match="is not a calibration step"):
        chosen_steps([3])  # type: ignore[list-item]


def test_a_rank_without_images_is_reported(images: Tensor) -> None:
    model = settled(Residual(), images)
    pair = pair_of(model, kept(model, images), images)
    with pytest.raises(UserError, match="no images"):
        Distil()(Pair(pair.full, pair.pruned, pair.plan, [], images[:1]))
