"""AutoPruner: codes and their gradients by a plain implementation, and the channels that they remove."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.errors import UserError
from prunelab.methods import AutoPruner, Budget, PruningCallback
from prunelab.methods.learning.codes import CodeLayer

pytestmark = pytest.mark.slow

ENDLESS = 2**24


def autopruner(**settings: Any) -> AutoPruner:
    return AutoPruner(Budget(flops=0.5), **settings)


@pytest.mark.parametrize(
    ("shape", "channels", "pooled"),
    [
        ((7, 7), 4, (7, 7)),
        ((14, 14), 4, (7, 7)),
        ((56, 56), 64, (28, 28)),
        ((56, 56), 256, (16, 16)),
        ((9, 1), 4, (4, 1)),
    ],
)
def test_large_maps_are_halved_and_more_if_the_layer_would_be_too_large(
    shape: tuple[int, int], channels: int, pooled: tuple[int, int]
) -> None:
    with torch.device("meta"):
        layer = CodeLayer(channels, shape, 0.5, 1, ENDLESS)
    assert layer.pooled == pooled
    assert layer.convolution.weight.numel() <= ENDLESS


def test_a_code_and_its_gradients_are_those_of_a_plain_implementation() -> None:
    torch.manual_seed(0)
    layer = CodeLayer(3, (8, 8), keep=0.4, window=2, largest=ENDLESS)
    maps = torch.randn(5, 3, 8, 8, requires_grad=True)
    use = torch.tensor([1.0, -2.0, 3.0])
    (layer(maps, 0.7, 10.0) @ use).backward()
    found = [maps.grad, layer.convolution.weight.grad, layer.convolution.bias.grad]

    maps.grad = layer.convolution.weight.grad = layer.convolution.bias.grad = None
    pooled = functional.max_pool2d(maps.mean(dim=0), 2)
    z = torch.einsum("oihw,ihw->o", layer.convolution.weight, pooled) + layer.convolution.bias
    code = 1 / (1 + torch.exp(-0.7 * z))
    (code @ use + 10.0 * (code.norm(1) / 3 - 0.4) ** 2).backward()
    expected = [maps.grad, layer.convolution.weight.grad, layer.convolution.bias.grad]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_newest_batches_decide() -> None:
    layer = CodeLayer(2, (1, 1), keep=0.5, window=2, largest=ENDLESS)
    layer.convolution.weight.data = torch.eye(2).view(2, 2, 1, 1)
    layer.convolution.bias.data.zero_()
    assert layer.binary().tolist() == [1, 1]
    for values in ([9.0, -9.0], [1.0, -1.0], [-2.0, 3.0]):
        layer(torch.tensor(values).view(1, 2, 1, 1), 1.0, 0.0)
    assert layer.score().tolist() == [-0.5, 1.0]
    assert layer.binary().tolist() == [0, 1]


def test_codes_multiply_the_inputs_of_the_next_layer_in_training(small: Any, context: Any) -> None:
    method = autopruner(levels=["filter"])
    plain, images = copy.deepcopy(small), torch.randn(4, 1, 8, 8)
    method.learning = context(method, small)
    method.prepare(method.learning)
    method.steps = 10
    found = small.train()(images)

    hidden = functional.relu(plain.norm(plain.stem(images)))
    for block, code in zip(plain.blocks, method._codes.values(), strict=True):
        inside = functional.relu(block.norm1(block.conv1(hidden)))
        z = code.convolution(inside.mean(dim=0, keepdim=True)).view(1, 6, 1, 1)
        inside = inside * torch.sigmoid(0.1 * z)
        hidden = functional.relu(hidden + block.norm2(block.conv2(inside)))
    assert torch.allclose(found, plain.head(hidden.mean(dim=(2, 3))), atol=1e-5)


def test_learning_leaves_an_ordinary_network_that_computes_what_its_binary_codes_did(
    small: Any, context: Any
) -> None:
    names = set(small.state_dict())
    method = autopruner()
    found = context(method, small)
    method.prepare(found)
    method.steps = 10
    images = torch.randn(4, 1, 8, 8)
    small.train()(images)
    off = {
        name: [i for i, kept in enumerate(code.binary().tolist()) if not kept]
        for name, code in method._codes.items()
    }
    assert any(off.values())
    kept = 1 - sum(map(len, off.values())) / 18
    assert method.watch(found)["kept"] == pytest.approx(kept)
    before = small.eval()(images)
    method.finish(found)
    assert set(small.state_dict()) == names
    assert all(type(module).__module__ != "torch.nn.utils.parametrize" for module in small.modules())
    assert torch.allclose(small(images), before, atol=1e-6)
    assert (small.blocks[1].conv2.weight[:, off["blocks.1.conv1"]] == 0).all()
    assert (small.head.weight[:, off["blocks"]] == 0).all()
    plan = method.decide(found)
    assert found.graph.cost.flops(plan) <= 0.5 * found.graph.cost.flops()


def test_channels_with_code_zero_are_removed_first_in_any_group(small: Any, context: Any) -> None:
    method = autopruner()
    method._scores = {
        "blocks": np.array([5.0, 1.0, 3.0, 2.0, 4.0, 6.0]),
        "blocks.0.conv1": np.array([0.1, -9.0, 0.2, -0.1, -1.0, -2.0]),
        "blocks.1.conv1": np.array([-1.0, 90.0, 10.0, 20.0, 30.0, 40.0]),
    }
    found = context(method, small)
    on = {name: np.flatnonzero(scores > 0).tolist() for name, scores in method._scores.items()}
    costs = found.graph.cost.flops(found.graph.plan(on)), found.graph.cost.flops()
    exact = replace(found, budget=Budget(flops=costs[0] / costs[1] + 1e-6))
    assert {name: list(kept) for name, kept in method.decide(exact).kept.items()} == on


class Module(pl.LightningModule):
    EXAMPLE = torch.zeros(1, 4, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Conv2d(4, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 2))
        self.net = nn.Sequential(*layers)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(torch.randn(8, 4, 2, 2), torch.arange(8) % 2), batch_size=4)


def quiet(**settings: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **settings,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
def test_channels_with_class_information_are_kept(signals: Any, seed: int) -> None:
    method = AutoPruner(Budget(params=0.3), keep=0.4, strength=1.0, last_scale=10.0, seed=seed)
    _, kept = signals(method)
    assert kept == (2, 7)


def test_a_network_that_is_not_called_is_noticed() -> None:
    class Around(Module):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            return functional.cross_entropy(self.net.forward(batch[0]), batch[1])

    method = autopruner()
    with pytest.raises(UserError, match="received no activations of 0 in this step"):
        quiet(max_epochs=1, callbacks=[PruningCallback(method, example_input=Module.EXAMPLE)]).fit(Around())


def test_the_scale_rises_and_faster_if_codes_are_not_settled_in_the_end(small: Any, context: Any) -> None:
    method = autopruner(first_scale=1.0, last_scale=101.0)
    found = context(method, small)
    method.prepare(found)
    method.steps, scales = 10, []
    for code in method._codes.values():
        code.last = torch.tensor([0.0, 0.02, 0.5, 1.0, 0.97, 0.2])
    assert method.watch(found)["settled"] == pytest.approx(4 / 6)
    assert method.watch(found)["code_p50"] == pytest.approx(0.35)
    for method.step in range(10):
        scales.append(method.scale)
        method.after_step(found, {})
    assert scales == pytest.approx([1, 11, 21, 31, 41, 51, 61, 71, 81, 191])
    for code in method._codes.values():
        code.last = torch.tensor([0.0, 0.02, 0.05, 1.0, 0.97, 0.95])
    before = method.scale
    method.after_step(found, {})
    assert method.scale == before
    method.finish(found)


def test_a_trainer_without_end_is_an_error() -> None:
    with pytest.raises(UserError, match="this Trainer has no limit"):
        quiet(max_epochs=-1, callbacks=[PruningCallback(autopruner(), example_input=Module.EXAMPLE)]).fit(
            Module()
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["block"]}, "not defined for level block"),
        ({"keep": 0.0}, "keep=0.0"),
        ({"strength": -1}, "strength=-1"),
        ({"first_scale": 2.0, "last_scale": 1.0}, "above 0 and must not fall"),
        ({"window": 0}, "window=0"),
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        autopruner(**settings)


def test_it_must_learn_before_it_decides(small: Any, context: Any) -> None:
    method = autopruner()
    with pytest.raises(UserError, match="needs a learning fit"):
        method.decide(context(method, small))


def test_channels_without_places() -> None:
    """The features (N, C) of a recurrent or fully connected layer are maps of one place."""
    torch.manual_seed(0)
    layer = CodeLayer(3, (1, 1), keep=0.5, window=1, largest=ENDLESS)
    features = torch.randn(5, 3)
    assert torch.equal(layer(features, 1.0, 0.0), layer(features[:, :, None, None], 1.0, 0.0))
