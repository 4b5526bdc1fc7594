"""``outputs=``: the channels of outputs that are not used may be removed where other layers read them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunelab
from prunelab.errors import UserError

IMAGES = torch.randn(2, 3, 6, 6)


@dataclass
class Result:
    logits: Tensor
    features: list[Tensor]


class Detector(nn.Module):
    """Returns logits, its features, and an output that no layer reads; in training mode only the logits."""

    def __init__(self, wrap: Callable[[Tensor, list[Tensor]], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 3)
        self.aside, self.head = nn.Conv2d(8, 5, 1), nn.Linear(6, 4)
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        first = F.relu(self.first(x))
        second = F.relu(self.second(first))
        logits = self.head(second.mean((2, 3)))
        return [logits] if self.training else self.wrap(logits, [first, second, self.aside(first)])


CHOICES: list[tuple[Callable[[Tensor, list[Tensor]], Any], Any]] = [
    (lambda logits, features: (logits, features), 0),
    (lambda logits, features: (features, logits), [-1]),
    (lambda logits, features: {"logits": logits, "features": features}, "logits"),
    (Result, ["logits"]),
    (Result, lambda result: result.logits),
]


@pytest.mark.parametrize(("wrap", "outputs"), CHOICES)
def test_only_chosen_outputs_are_frozen(wrap: Any, outputs: Any) -> None:
    model = Detector(wrap).eval()
    graph = prunelab.analyze(model, IMAGES, outputs=outputs)
    assert [group.name for group in graph.groups] == ["first", "second"]
    reasons = {group.name: str(group.frozen) for group in graph.frozen}
    assert reasons["head"] == "output of the network"
    assert reasons["aside"].startswith("no layer reads these channels")
    plan = graph.plan(kept={"first": [0, 2, 5], "second": [1, 4]})
    pruned = prunelab.apply(copy.deepcopy(model), plan)
    assert prunelab.check(model, pruned, plan, IMAGES, outputs=outputs) < 1e-9
    assert prunelab.check(model, pruned, plan, IMAGES) == float("inf")
    assert not prunelab.analyze(model, IMAGES).groups


def test_methods_have_the_same_option() -> None:
    method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(params=0.5), outputs="logits")
    context = method.context(Detector(Result), IMAGES)
    assert [group.name for group in context.graph.groups] == ["first", "second"]
    callback = prunelab.ImportancePruning(prunelab.L1Norm(), prunelab.Budget(params=0.5), outputs=[0])
    assert callback.method.outputs == [0]


@pytest.mark.parametrize(
    ("wrap", "outputs", "message"),
    [
        (Result, "logit", "no output 'logit'. It returns a Result"),
        (
            lambda logits, features: {"a": logits, "b": features},
            "c",
            "no output 'c'. It returns a dict with a, b",
        ),
        (lambda logits, features: (logits, features), 2, "no output 2. It returns a tuple of 2"),
        (lambda logits, features: logits, "logits", "no output 'logits'. It returns one tensor"),
        (
            Result,
            lambda result: result["x"],
            "the function in outputs fails for what the network returns, a Result: Type",
        ),
        (Result, True, "outputs=True does not choose outputs"),
        (Result, [], "outputs=.. does not choose outputs"),
        (Result, 1.5, "outputs=1.5 does not choose outputs"),
    ],
)
def test_outputs_that_do_not_exist(wrap: Any, outputs: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prunelab.analyze(Detector(wrap), IMAGES, outputs=outputs)


class InBothModes(Detector):
    """Training mode returns the same form: the choice holds there too."""

    def forward(self, x: Tensor) -> Any:
        if self.training:
            x = x * 1.5
        first = F.relu(self.first(x))
        return self.head(F.relu(self.second(first)).mean((2, 3))), first


def test_training_mode_with_outputs_of_the_same_form() -> None:
    graph = prunelab.analyze(InBothModes(Result), IMAGES, outputs=0)
    assert [group.name for group in graph.groups] == ["first", "second"]
