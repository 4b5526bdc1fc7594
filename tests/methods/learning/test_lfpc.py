"""LFPC: samples, mixtures and masks by plain implementations, the right criterion for each layer, held-out images."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.errors import UserError
from prunelab.methods import LFPC, APoZ, Budget, Criterion, L1Norm, PruningCallback, PruningContext, Scores
from prunelab.methods.learning.sampler import Sampler

pytestmark = pytest.mark.slow

EXAMPLE = torch.zeros(1, 1, 8, 8)
HELD_OUT = [(torch.randn(6, 1, 8, 8), torch.arange(6)), (torch.randn(6, 1, 8, 8), torch.arange(6))]


def lfpc(**settings: Any) -> LFPC:
    return LFPC(Budget(flops=0.5), **settings)


def learning(method: LFPC, network: nn.Module) -> PruningContext:
    """A context in which the method is in the middle of learning."""
    context = method.context(network, EXAMPLE, validation=HELD_OUT)
    method.begin(context)
    method.prepare(context)
    method.step, method.steps = 5, 10
    return context


@dataclass(frozen=True)
class First(Criterion):
    """The first channels are the best."""

    reads: ClassVar = "weights"

    def score(self, context: PruningContext) -> Scores:
        return Scores({group.name: np.arange(group.size, 0.0, -1.0) for group in context.groups})


@dataclass(frozen=True)
class Last(Criterion):
    reads: ClassVar = "weights"

    def score(self, context: PruningContext) -> Scores:
        return Scores({group.name: np.arange(1.0, group.size + 1) for group in context.groups})


def test_samples_are_those_of_the_gumbel_softmax_formula() -> None:
    sampler = Sampler(2, 3, lr=0.1, weight_decay=0.0, seed=4)
    sampler.logits.data = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
    uniform = torch.rand(2, 3, generator=torch.Generator().manual_seed(4 * 1_000_003 + 17))
    log_p = torch.log(torch.exp(sampler.logits) / torch.exp(sampler.logits).sum(dim=1, keepdim=True))
    expected = torch.exp((log_p - torch.log(-torch.log(uniform))) / 0.7)
    assert torch.allclose(sampler.draw(0.7, 17), expected / expected.sum(dim=1, keepdim=True), atol=1e-6)


def test_cold_samples_are_choices_with_the_probabilities_of_the_logits() -> None:
    sampler = Sampler(1, 3, lr=0.1, weight_decay=0.0, seed=0)
    sampler.logits.data = torch.log(torch.tensor([[0.5, 0.3, 0.2]]))
    drawn = torch.cat([sampler.draw(0.01, number).detach() for number in range(2000)])
    assert (drawn.max(dim=1).values > 0.99).float().mean() > 0.95
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.5, 0.3, 0.2], abs=0.04)  # 4 standard errors


def test_the_sampler_descends_the_loss() -> None:
    sampler = Sampler(1, 2, lr=0.1, weight_decay=0.0, seed=0)
    loss = (sampler.logits * torch.tensor([[1.0, -1.0]])).sum()
    assert sampler.descend(loss + 3.0) == pytest.approx(3.0)
    assert sampler.logits.tolist() == [pytest.approx([-0.1, 0.1], abs=1e-6)]  # Adam's first step is its rate
    with pytest.raises(UserError, match="held out of training is empty"):
        sampler.descend(None)


def test_a_pass_mixes_the_outputs_of_the_network_as_each_criterion_prunes_it(small: Any) -> None:
    method = lfpc(levels=["filter"], criteria=[First(), Last(), L1Norm()], keep=0.5)
    plain, images = copy.deepcopy(small), torch.randn(4, 1, 8, 8)
    learning(method, small)
    found = small.train()(images)

    drawn = method._search.sampler.draw(5.0 - 4.9 * 0.5, 10).detach()
    hidden = functional.relu(plain.norm(plain.stem(images)))
    for block, weights in zip(plain.blocks, drawn, strict=True):
        inside = functional.relu(block.norm1(block.conv1(hidden)))
        largest = block.conv1.weight.abs().sum(dim=(1, 2, 3)).topk(3).indices
        outputs = [block.conv2(masked(inside, kept)) for kept in ([0, 1, 2], [3, 4, 5], largest.tolist())]
        hidden = functional.relu(
            hidden + block.norm2(sum(p * o for p, o in zip(weights, outputs, strict=True)))
        )
    assert torch.allclose(found, plain.head(hidden.mean(dim=(2, 3))), atol=1e-5)


def masked(maps: Tensor, kept: list[int]) -> Tensor:
    mask = torch.zeros(maps.shape[1])
    mask[kept] = 1.0
    return maps * mask.view(1, -1, 1, 1)


def test_in_evaluation_a_group_follows_its_best_criterion_and_is_pruned_by_it(small: Any) -> None:
    method = lfpc(levels=["filter"], criteria=[First(), Last()])
    context = learning(method, small)
    method._search.sampler.logits.data = torch.tensor([[0.1, 0.0], [0.0, 0.1]])
    images = torch.randn(4, 1, 8, 8)
    found = small.eval()(images)
    method.finish(context)
    plan = method.decide(context)
    first, last = (plan.kept[f"blocks.{i}.conv1"] for i in (0, 1))
    assert first == tuple(range(len(first))) and last == tuple(range(6 - len(last), 6))
    for block, kept in zip(small.blocks, (first, last), strict=True):
        gone = [channel for channel in range(6) if channel not in kept]
        assert gone
        block.conv2.weight.data[:, gone] = 0.0
    assert torch.allclose(small(images), found, atol=1e-6)


class Data(pl.LightningDataModule):
    """The class is the sign of the first input channel, except in the training part, which has no information.

    A corner of every image encodes its part; reading test images fails.
    """

    def _loader(self, part: float, size: int) -> DataLoader[tuple[Tensor, ...]]:
        generator = torch.Generator().manual_seed(int(part))
        images, targets = (
            torch.randn(size, 2, 2, 2, generator=generator),
            torch.randint(2, (size,), generator=generator),
        )
        if part == 2:
            images[:, 0] = images[:, 0].abs() * (2.0 * targets - 1).view(-1, 1, 1)
        images[:, 1, 0, 0] = part
        return DataLoader(TensorDataset(images, targets), batch_size=16)

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(1, 64)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return self._loader(2, 64)

    def test_dataloader(self) -> Any:
        raise AssertionError("a search must not see test images")

    predict_dataloader = test_dataloader


class Halves(pl.LightningModule):
    """Two layers of four channels; of the first the first half carries the class, of the second the last half."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2),
        )  # fmt: skip
        self.net[0].weight.data = columns([[1, 0], [-1, 0], [0, 1], [0, -1]])
        self.net[2].weight.data = columns([[0, 0, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0], [0, 1, 0, 0]])
        self.net[6].weight.data = torch.tensor([[0.0, 0.0, -1.0, 1.0], [0.0, 0.0, 1.0, -1.0]])
        self.net.requires_grad_(False)
        self.net[6].requires_grad_(True)
        self.seen: list[float] = []
        self.net.register_forward_pre_hook(self._note)
        self.trained: list[float] = []

    def _note(self, net: nn.Module, images: tuple[Tensor]) -> None:
        if not images[0].is_meta:
            self.seen.extend(images[0][:, 1, 0, 0].tolist())

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        self.trained.extend(batch[0][:, 1, 0, 0].tolist())
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net[6].parameters(), lr=0.0)


def columns(rows: list[list[int]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[:, :, None, None]


def test_each_layer_finds_its_criterion_only_by_held_out_images() -> None:
    module = Halves()
    method = LFPC(Budget(params=0.5), criteria=[First(), Last()], keep=0.5, sampler_lr=0.05)
    callback = PruningCallback(method, loss=functional.cross_entropy)
    trainer = pl.Trainer(
        max_epochs=8, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(module, Data())
    assert method._chosen == {"0": 0, "2": 1}
    assert set(module.trained) == {1.0} and set(module.seen) == {1.0, 2.0}
    assert trainer.callback_metrics["learning/certainty"] > 0.7
    assert trainer.callback_metrics["learning/chosen_first"] == 0.5
    assert trainer.callback_metrics["learning/overlap"] == 0.0
    assert 0 < trainer.callback_metrics["learning/held_out_loss"] < np.log(2)  # of a guess
    plan = method.decide(method.context(module.net, torch.zeros(1, 2, 2, 2)))
    assert (plan.kept["0"], plan.kept["2"]) == ((0, 1), (2, 3))


def test_nothing_is_learned_if_criteria_agree(small: Any) -> None:
    method = lfpc(criteria=[First(), First()], sampler_weight_decay=0.0)
    context = learning(method, small)
    method.after_step(context, {})
    assert (method._search.sampler.logits == 0).all()
    assert method._search.overlap() == 1.0


def test_the_sampler_does_not_change_weights_gradients_and_statistics(small: Any) -> None:
    method = lfpc(criteria=[First(), Last()])
    context = learning(method, small)
    small.train()
    for parameter in small.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(small.state_dict())
    method.after_step(context, {})
    assert all(torch.equal(tensor, before[name]) for name, tensor in small.state_dict().items())
    assert all((parameter.grad == 1).all() and parameter.requires_grad for parameter in small.parameters())
    assert small.training and (method._search.sampler.logits != 0).any()


def test_masks_follow_the_weights_once_an_epoch(small: Any) -> None:
    method = lfpc(levels=["filter"], criteria=[L1Norm(), First()], keep=0.5)
    context = learning(method, small)
    small(EXAMPLE)
    weight = small.blocks[0].conv1.weight
    weight.data = torch.arange(1.0, 7.0).view(6, 1, 1, 1) * torch.ones_like(weight)
    before = method._search._current_masks()["blocks.0.conv1"][0]
    assert before.sum() == 3
    method.after_epoch(context)
    assert method._search._current_masks()["blocks.0.conv1"][0].tolist() == [0, 0, 0, 1, 1, 1]


def test_without_held_out_images_the_error_names_the_argument(small: Any) -> None:
    method = lfpc()
    with pytest.raises(UserError, match=r"images held out of training.*validation="):
        method.prepare(method.context(small, EXAMPLE))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["block"]}, "not defined for level block"),
        ({"criteria": [L1Norm()]}, "at least two"),
        ({"criteria": [L1Norm(), APoZ()]}, "APoZ reads activations"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"sampler_lr": 0.0}, "sampler_lr=0.0"),
        ({"last_temperature": 0.0}, "temperatures must be above 0"),
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lfpc(**settings)


def test_it_must_learn_before_it_decides(small: Any) -> None:
    method = lfpc()
    with pytest.raises(UserError, match="needs a learning fit"):
        method.decide(method.context(small, EXAMPLE))
