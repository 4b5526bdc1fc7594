"""ABCPruner: the moves of the bees by hand, the phases of a cycle, and the training of candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import ABCPruner, Budget, Judge, WidthSpace
from prunelab.methods.search.abcpruner import moved, visiting_chances
from prunelab.structure import apply
from prunelab.training import Training

HALF = Budget(flops=0.5)
TRAINING = Training(epochs=2, lr=0.01, schedule="constant")


@pytest.mark.parametrize(
    ("places", "factors", "expected"),
    [
        ([0, 2], [0.5, -0.3], [7, 2, 9]),  # 5 + 0.5 (5 - 1) = 7; 8 - 0.3 (8 - 4) = 6.8, the next line
        ([0, 1], [-1.0, 0.5], [1, 1, 8]),  # 5 - 4 = 1; 2 + 0.5 (2 - 6) = 0 -> 1
        ([2, 2], [0.9, 0.2], [5, 2, 9]),  # of two moves at one place the second: 8 + 0.2 (8 - 4) = 8.8 -> 9
    ],
)
def test_a_move_by_hand(places: list[int], factors: list[float], expected: list[int]) -> None:
    code, other = np.array([5, 2, 8]), np.array([1, 6, 4])
    if places == [0, 2]:
        expected = [7, 2, 7]  # 6.8 is rounded to 7; int() would give 6
    assert moved(code, other, np.array(places), np.array(factors), 9).tolist() == expected
    assert code.tolist() == [5, 2, 8]


def test_the_chances_of_a_visit_by_hand() -> None:
    assert visiting_chances(np.array([0.4, 0.8, 0.0])) == pytest.approx([0.55, 1.0, 0.1])
    assert visiting_chances(np.zeros(2)).tolist() == [1.0, 1.0]


@pytest.fixture
def begun(residual: nn.Module, batches: Any) -> Any:
    """settings -> a method whose search has begun."""

    def make(**settings: Any) -> ABCPruner:
        method = ABCPruner(HALF, **settings)
        context = method.context(residual, batches[0][0][:1], batches, validation=batches)
        method.start(context, WidthSpace.of(context, method.ranking(context)))
        return method

    return make


def fitness(method: ABCPruner, value: Any) -> int:
    """Judge all candidates of one ``ask`` with ``value``, a function of their number; returns how many there were."""
    asked = method.ask()
    for number, each in enumerate(asked):
        method.tell(each, value(number))
    return len(asked)


def test_every_candidate_is_as_close_to_the_budget_as_its_shape_allows(begun: Any) -> None:
    method = begun(sources=20)
    asked = method.ask()
    costs = np.array([method._space.cost(each) for each in asked]) / method._space.scale
    assert len(asked) == 20 and (costs <= 0.5).all() and costs.mean() > 0.42


def test_better_moves_replace_their_source_and_others_are_failed_trials(begun: Any) -> None:
    method = begun(sources=3, cycles=1, food_limit=9)
    fitness(method, lambda number: 0.5 + 0.1 * number)
    codes = method._codes.copy()
    method.ask()
    new = [code for _, code in method._moves]
    for score in (0.5, 0.7, 0.6):  # equal, better, worse
        method.tell(None, score)
    assert method._trials.tolist() == [1, 0, 1]
    assert method._codes.tolist() == [codes[0].tolist(), new[1].tolist(), codes[2].tolist()]
    assert method._fitness == pytest.approx([0.5, 0.7, 0.7])


def test_one_exhausted_source_per_cycle_is_drawn_again(begun: Any) -> None:
    method = begun(sources=2, cycles=1, food_limit=2)
    fitness(method, lambda number: 0.5)
    fitness(method, lambda number: 0.4)  # employed bees: no success
    fitness(method, lambda number: 0.4)  # onlookers: both sources, since their chances are 1
    before = method._codes.copy()
    assert fitness(method, lambda number: 0.1) == 1  # the scout
    assert method._trials.tolist() == [0, 2] and method._fitness.tolist() == [0.1, 0.5]
    assert (method._codes[1] == before[1]).all()
    assert method.ask() == []


def test_without_exhausted_sources_there_is_no_scout(begun: Any) -> None:
    method = begun(sources=2, cycles=2, food_limit=100)
    counts = []
    while count := fitness(method, lambda number: 0.5):
        counts.append(count)
    assert counts == [2, 2, 2, 2, 2]


def trainer(log: list[str]) -> Any:
    """Trains by moving all weights a little, in a way that depends only on the name."""

    def train(network: nn.Module, epochs: int, training: Any, name: str) -> None:
        assert (epochs, training) == (2, TRAINING)
        log.append(name)
        generator = torch.Generator().manual_seed(sum(map(ord, name)))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.running_mean += 0.1

    return train


def test_the_recovery_starts_from_the_weights_of_the_winner(residual: nn.Module, batches: Any) -> None:
    """The weights after ``reconstruct`` and surgery have the accuracy with which the winner was judged."""
    names: list[str] = []
    method = ABCPruner(HALF, TRAINING, sources=3, cycles=1)
    context = method.context(
        residual, batches[0][0][:1], batches, validation=batches, train_candidate=trainer(names)
    )
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    plan = method.decide(context)
    assert len(names) == len(set(names))  # each widths once
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())
    judged = method.judge(context)([plan])[0]

    method.reconstruct(context, plan)
    again = Judge(context, adapt=False)([plan])[0]
    assert again == judged
    assert names[-1] == f"candidate-{plan.digest()[:8]}"
    kept = sorted(set(range(6)) - set(plan.kept["blocks.0.conv1"]))
    assert torch.equal(residual.blocks[0].conv1.weight[kept], before["blocks.0.conv1.weight"][kept])
    pruned = apply(residual, plan)
    expected = before["head.bias"] + 0.0
    assert not torch.equal(pruned.head.bias, expected)


def test_candidates_keep_random_channels_that_the_seed_decides(residual: nn.Module, batches: Any) -> None:
    def order(**settings: Any) -> Any:
        method = ABCPruner(HALF, **settings)
        return method.ranking(method.context(residual, batches[0][0][:1])).channels["blocks.0.conv1"].tolist()

    assert order(seed=1) == order(seed=1) != order(seed=2)
    norms = residual.blocks[0].conv1.weight.detach().abs().sum(dim=(1, 2, 3))
    assert order(order="l1") == pytest.approx(norms.tolist())


def test_the_message_without_a_trainer_names_the_argument(residual: nn.Module, batches: Any) -> None:
    method = ABCPruner(HALF, TRAINING)
    with pytest.raises(UserError, match="train_candidate="):
        method.decide(method.context(residual, batches[0][0][:1], batches, validation=batches))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sources": 1}, "sources=1"),
        ({"cycles": -1}, "cycles=-1"),
        ({"food_limit": 0}, "food_limit=0"),
        ({"max_preserve": 10}, "max_preserve=10"),
        ({"order": "l3"}, "order='l3'"),
        ({"training": TRAINING, "workers": 2}, "workers=2"),
        ({"levels": ["block"]}, "ABCPruner is not defined for level block"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ABCPruner(HALF, **settings)
