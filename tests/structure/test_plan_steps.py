"""Histories of pruning and factorisation as plain data: JSON, composition, and checks of values from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import prunelab
from prunelab import PruningPlan, UserError
from prunelab.structure.low_rank import Factorisation, Factors
from prunelab.structure.plan_steps import PlanSteps, plan_from_json, steps_of
from prunelab.structure.surgery.substituting import apply_steps, substitute
from prunelab.training.restored_plan import prune_as

EXAMPLE = torch.zeros(1, 3, 8, 8)
LOW = Factorisation({"2": Factors("spatial", (3,))})


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))


def three_steps() -> tuple[nn.Module, PlanSteps]:
    """A network that was pruned, factorised and pruned, and its plan."""
    model = network()
    prunelab.apply(model, prunelab.analyze(model, EXAMPLE).plan({"0": range(6)}))
    substitute(model, LOW)
    prunelab.apply(model, prunelab.analyze(model, EXAMPLE).plan({"0": range(1, 6), "2.0": [0, 2]}))
    return model, model.prunelab_plan


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(parameter.shape) for parameter in model.parameters()]


def test_json_round_trip_and_application() -> None:
    model, plan = three_steps()
    assert [type(step) for step in plan.steps] == [PruningPlan, Factorisation, PruningPlan]
    again = plan_from_json(plan.to_json())
    assert again == plan and again.digest() == plan.digest()
    assert shapes(apply_steps(network(), steps_of(again))) == shapes(model)
    assert shapes(model) == [(5, 3, 3, 3), (5,), (2, 5, 3, 1), (8, 2, 1, 3), (8,), (2, 8, 3, 3), (2,)]


def test_a_plan_alone_is_written_and_read_as_before() -> None:
    plan = prunelab.analyze(network(), EXAMPLE).plan({"0": range(6)})
    assert json.loads(plan.to_json())["version"] == 1
    assert plan_from_json(plan.to_json()) == plan


def test_consecutive_plans_become_one() -> None:
    model, plan = three_steps()
    prunelab.apply(model, prunelab.analyze(model, EXAMPLE).plan({"0": [0, 1]}))
    assert len(model.prunelab_plan.steps) == 3
    assert model.prunelab_plan.steps[:2] == plan.steps[:2]
    assert shapes(apply_steps(network(), model.prunelab_plan.steps)) == shapes(model)


def test_a_network_continues_from_any_earlier_state() -> None:
    """As a checkpoint is loaded: the full network, one that was pruned, factorised, or is complete already."""
    model, plan = three_steps()
    for done in range(4):
        begun = apply_steps(network(), plan.steps[:done])
        prune_as(begun, plan)
        assert shapes(begun) == shapes(model)
        assert begun.prunelab_plan == plan
    other = apply_steps(network(), [Factorisation({"0": Factors("channel", (1,))})])
    with pytest.raises(UserError, match="factorised in another way"):
        prune_as(other, plan)


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no steps": (lambda raw: raw.update(steps=[]), "1 to 1000 steps"),
    "too many steps": (lambda raw: raw.update(steps=[raw["steps"][1]] * 1001), "1 to 1000 steps"),
    "unknown entry": (lambda raw: raw.update(more=1), "nothing else"),
    "step of another kind": (lambda raw: raw["steps"].append([]), "not a pruning plan"),
    "nested steps": (lambda raw: raw["steps"].append({"version": 2, "steps": raw["steps"][:1]}), "version"),
    "no layer": (lambda raw: raw["steps"][1].update(factorised=[]), "names no layer"),
    "a layer twice": (lambda raw: raw["steps"][1].update(factorised=[["2", "channel", [1]]] * 2), "twice"),
    "no path": (lambda raw: raw["steps"][1].update(factorised=[["", "channel", [1]]]), "not the path"),
    "unknown form": (lambda raw: raw["steps"][1]["factorised"][0].__setitem__(1, "exec"), "must be one of"),
    "form of another type": (lambda raw: raw["steps"][1]["factorised"][0].__setitem__(1, ["cp"]), "one of"),
    "two ranks": (lambda raw: raw["steps"][1]["factorised"][0].__setitem__(2, [1, 1]), "list of 1 ranks"),
    "rank of zero": (lambda raw: raw["steps"][1]["factorised"][0].__setitem__(2, [0]), "at least 1"),
    "rank of another type": (
        lambda raw: raw["steps"][1]["factorised"][0].__setitem__(2, [True]),
        "at least 1",
    ),
    "rank as text": (lambda raw: raw["steps"][1]["factorised"][0].__setitem__(2, "33"), "list of 1 ranks"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_steps_are_errors(name: str) -> None:
    change, message = FORGERIES[name]
    raw = json.loads(three_steps()[1].to_json())
    change(raw)
    with pytest.raises(UserError, match=message):
        plan_from_json(json.dumps(raw))


@pytest.mark.parametrize(
    ("path", "factors", "message"),
    [
        ("9", Factors("channel", (1,)), "the network lacks it"),
        ("1", Factors("channel", (1,)), "it is a ReLU"),
        ("2", Factors("spatial", (10**9,)), "not smaller than the layer"),
        ("2", Factors("tucker", (8, 8)), "not smaller than the layer"),
    ],
)
def test_a_step_that_does_not_fit_changes_nothing(path: str, factors: Factors, message: str) -> None:
    model = network()
    before = shapes(model)
    with pytest.raises(UserError, match=message):
        substitute(model, Factorisation({"0": Factors("channel", (1,)), path: factors}))
    assert shapes(model) == before and not hasattr(model, "prunelab_plan")
