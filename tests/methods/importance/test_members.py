"""Groups whose members only have to lose equally many channels keep the best channels of each member."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunelab


class Shared(nn.Module):
    """``reduce`` has as many channels as ``stem``, because the view uses the width of x for its result."""

    def __init__(self, stem: list[float], reduce: list[float]) -> None:
        super().__init__()
        width = len(stem)
        self.stem, self.reduce, self.head = (
            nn.Conv2d(1, width, 1),
            nn.Conv2d(width, width, 1),
            nn.Linear(width, 2),
        )
        with torch.no_grad():
            self.stem.weight.copy_(torch.tensor(stem).view(width, 1, 1, 1))
            self.reduce.weight.copy_(
                torch.tensor(reduce).view(width, 1, 1, 1).expand(width, width, 1, 1) / width
            )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(self.reduce(x).reshape(len(x), x.shape[1], -1).mean(2))


IMAGES = torch.randn(4, 1, 3, 3)
NETWORK = Shared([4.0, 1.0, 3.0, 2.0], [0.1, 0.4, 0.2, 0.3]).eval()


def scored(reduction: Any) -> tuple[prunelab.Scores, prunelab.PruningPlan]:
    method = prunelab.ImportanceMethod(prunelab.L1Norm(reduction=reduction), prunelab.Budget(params=0.6))
    return method.scored(method.context(NETWORK, IMAGES))


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [("sum", [4.4, 1.1, 3.3, 2.2]), ("mean", [2.2, 0.55, 1.65, 1.1]), ("max", [4.0, 1.0, 3.0, 2.0])],
)
def test_the_best_channels_of_all_members_stand_together(reduction: str, expected: list[float]) -> None:
    """The k-th best channel of the group has the scores of the k-th best ones of its members."""
    scores, _ = scored(reduction)
    assert scores.channels["stem"] == pytest.approx(np.array(expected), rel=1e-6)


def test_each_member_keeps_its_best_channels() -> None:
    _, plan = scored("mean")
    assert plan.kept == {"stem": (0, 2)}
    assert plan.members == {"reduce": (1, 3)}
    pruned = prunelab.apply(copy.deepcopy(NETWORK), plan)
    assert prunelab.check(NETWORK, pruned, plan, IMAGES) < 1e-9


@pytest.mark.parametrize("rule", ["uniform", "per_cost", "knapsack"])
def test_all_allocations_keep_the_best_of_each(rule: str) -> None:
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(params=0.6), allocation=rule)
    plan = method.decide(method.context(NETWORK, IMAGES))
    assert (plan.kept["stem"], plan.members["reduce"]) == ((0, 2), (1, 3))


def test_searches_keep_the_best_of_each() -> None:
    method = prunelab.EagleEye(prunelab.Budget(params=0.6))
    context = method.context(NETWORK, IMAGES)
    plan = prunelab.WidthSpace.of(context, method.ranking(context)).plan([2], method.ranking(context))
    assert (plan.kept["stem"], plan.members["reduce"]) == ((0, 2), (1, 3))


def test_a_member_without_scores_loses_the_places_of_the_others() -> None:
    class OnlyStem(prunelab.Criterion):
        reads = "nothing"

        def score(self, context: prunelab.PruningContext) -> prunelab.Scores:
            names = [group.name for group in context.groups if group.name == "stem"]
            return prunelab.Scores({name: np.arange(4.0) for name in names})

    method = prunelab.ImportanceMethod(OnlyStem(), prunelab.Budget(params=0.6))
    plan = method.decide(method.context(NETWORK, IMAGES))
    assert (plan.kept["stem"], plan.members["reduce"]) == ((2, 3), (2, 3))


def test_excluded_groups_stay_whole() -> None:
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(params=0.6), exclude=["stem"])
    with pytest.raises(prunelab.UserError, match="cannot be reached"):
        method.decide(method.context(NETWORK, IMAGES))
