"""Soft pruning: filters are zeroed, may recover, and are removed at the end."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import FPGM, APoZ, Budget, SoftPruning
from prunelab.training import Training

pytestmark = pytest.mark.slow

TRAINING = Training(epochs=2, lr=0.05)


def soft(**settings: Any) -> SoftPruning:
    return SoftPruning(Budget(flops=0.5), **settings)


def zero_filters(network: nn.Module, name: str) -> list[int]:
    weight = network.get_parameter(f"{name}.weight").detach()
    return torch.nonzero(weight.flatten(1).norm(dim=1) == 0).flatten().tolist()


class Watcher(pl.Callback):
    """The zero filters of a convolution before the first step, within epochs and at validation."""

    def __init__(self, network: nn.Module, name: str) -> None:
        self.seen: dict[str, list[list[int]]] = {"start": [], "step": [], "validation": []}
        self.look = lambda: zero_filters(network, name)

    def on_train_start(self, *_: Any) -> None:
        self.seen["start"].append(self.look())

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not trainer.is_last_batch:
            self.seen["step"].append(self.look())

    def on_validation_start(self, *_: Any) -> None:
        self.seen["validation"].append(self.look())


def test_the_smallest_filters_are_zeroed_before_the_first_step(small: Any, context: Any) -> None:
    inside = small.blocks[0].conv1.weight
    inside.data = torch.arange(1.0, 7.0).view(6, 1, 1, 1) * torch.ones_like(inside)
    norm = copy.deepcopy(small.blocks[0].norm1.state_dict())
    soft(rate=0.35, levels=["filter"]).before_first_step(context(soft(), small))
    assert zero_filters(small, "blocks.0.conv1") == [0, 1]  # int(6 x 0.35)
    assert all(torch.equal(norm[key], value) for key, value in small.blocks[0].norm1.state_dict().items())


def test_from_scratch_draws_all_weights_afresh_once(small: Any, context: Any) -> None:
    drawn = []
    for _ in range(2):
        for parameter in small.parameters():
            parameter.data.fill_(7.0)
        soft(from_scratch=True, seed=3).prepare(context(soft(), small))
        drawn.append(small.stem.weight.detach().clone())
    assert torch.equal(*drawn)
    assert drawn[0].std() > 0
    soft().prepare(context(soft(), small))
    assert torch.equal(small.stem.weight, drawn[0])


def test_a_stage_zeroes_the_same_filters_of_all_its_producers(small: Any, context: Any) -> None:
    soft(rate=0.5).before_first_step(context(soft(), small))
    found = zero_filters(small, "stem")
    assert len(found) == 3
    assert zero_filters(small, "blocks.0.conv2") == zero_filters(small, "blocks.1.conv2") == found


def test_filters_that_the_budget_removes_are_zero_at_the_end(learn: Any, small: Any, context: Any) -> None:
    method = soft()
    logged = learn(method, small, training=TRAINING)
    plan = method.decide(context(method, small))
    removed = {name: sorted({*range(6)} - {*kept}) for name, kept in plan.kept.items()}
    for maker in ("blocks.0.conv1", "blocks.1.conv1"):
        assert removed[maker] == zero_filters(small, maker) != []
    for maker in ("stem", "blocks.0.conv2", "blocks.1.conv2"):
        assert removed["blocks"] == zero_filters(small, maker) != []
    assert logged["learning/zero_filters"] == pytest.approx(sum(map(len, removed.values())) / 18)


def test_the_log_contains_the_fraction_of_newly_zeroed_filters(small: Any, context: Any) -> None:
    method = soft(rate=0.5, levels=["filter"])
    found, weights = context(method, small), [block.conv1.weight for block in small.blocks]
    for weight in weights:
        weight.data = torch.arange(1.0, 7.0).view(6, 1, 1, 1) * torch.ones_like(
            weight
        )  # 0, 1 and 2 are zeroed
    method.before_first_step(found)
    assert method.watch(found) == {"zero_filters": 0.5, "exchanged": 1.0}
    weights[0].data[:2] = 9.0  # 0 and 1 recovered: 2, 3 and 4 are zeroed; the other block is unchanged
    weights[1].data[:3] = 0.5
    method.after_epoch(found)
    assert zero_filters(small, "blocks.0.conv1") == [2, 3, 4]
    assert method.watch(found) == {"zero_filters": 0.5, "exchanged": pytest.approx(2 / 6)}


def test_filters_are_zero_before_an_epoch_and_at_validation_and_recover_in_between(
    learn: Any, small: Any
) -> None:
    small.blocks[0].norm1.bias.data.fill_(0.5)  # at 0 the ReLU has no gradient for a zero filter
    watcher = Watcher(small, "blocks.0.conv1")
    learn(soft(rate=0.5), small, watcher, training=TRAINING)
    assert [len(found) for found in watcher.seen["start"] + watcher.seen["validation"]] == [3, 3, 3]
    assert watcher.seen["step"][-1] == []  # gradients revived them


@pytest.mark.parametrize(("shift", "comes_back"), [(0.5, True), (0.0, False), (-0.5, False)])
def test_a_zeroed_filter_recovers_only_if_its_normalisation_shifts_it_above_zero(
    learn: Any, small: Any, shift: float, comes_back: bool
) -> None:
    small.blocks[0].norm1.bias.data.fill_(shift)
    watcher = Watcher(small, "blocks.0.conv1")
    learn(soft(rate=0.5, levels=["filter"]), small, watcher, training=Training(epochs=1, lr=0.05))
    assert watcher.seen["step"][-1] == ([] if comes_back else watcher.seen["start"][0])


def test_masked_gradients_keep_filters_at_zero(small: Any, context: Any) -> None:
    method = soft(criterion=FPGM(), rate=0.5, mask_gradients=True)
    found = context(method, small)
    method.before_first_step(found)
    for parameter in small.parameters():
        parameter.grad = torch.ones_like(parameter)
    method.before_step(found)
    zero = zero_filters(small, "blocks.1.conv1")
    gradient = small.blocks[1].conv1.weight.grad
    assert len(zero) == 3
    assert (gradient[zero] == 0).all()
    assert gradient.sum() == 3 * 54  # the gradients of the other three filters are unchanged


def test_a_duplicated_filter_is_removed_by_the_geometric_median(small: Any, context: Any) -> None:
    weight = small.blocks[0].conv1.weight
    weight.data = torch.eye(6).repeat_interleave(9, dim=1).view(6, 6, 3, 3).clone()
    weight.data[1] = weight.data[0]
    soft(criterion=FPGM(), rate=0.34, levels=["filter"]).before_first_step(context(soft(), small))
    assert zero_filters(small, "blocks.0.conv1") == [0, 1]  # the two are nearest to all others


def test_zero_filters_are_removed_before_those_of_lowest_score(small: Any, context: Any) -> None:
    for block in small.blocks:
        block.conv1.weight.data.fill_(1.0)  # the zero filter is the farthest from the geometric median
        block.conv1.weight.data[3] = 0.0
    method = SoftPruning(Budget(flops=0.9), FPGM(), levels=["filter"])
    plan = method.decide(context(method, small))
    for name in ("blocks.0.conv1", "blocks.1.conv1"):
        assert 3 not in plan.kept[name] and plan.kept[name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": ["block"]}, "not defined for level block"),
        ({"rate": 1.0}, "rate=1.0"),
        ({"criterion": APoZ()}, "APoZ reads activations"),
    ],
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        soft(**settings)
