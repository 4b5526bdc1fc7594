"""A network pruned part by part has the same final widths as if pruned at once."""

from __future__ import annotations

import pytest
import torch

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.methods import Budget, ImportanceMethod, L1Norm
from prunelab.models import build
from prunelab.steps.parts import portion
from prunelab.structure import analyze, apply

IMAGE = torch.zeros(1, 3, 16, 16)


def uniform(**settings: object) -> ImportanceMethod:
    return ImportanceMethod(L1Norm(), Budget(flops=0.5), **{"allocation": "uniform", **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize("levels", [["filter"], ["filter", "stage"]])
def test_every_part_gets_its_final_width_in_its_turn(levels: list[str]) -> None:
    method = uniform(levels=levels)
    network = build("cifar_resnet20", num_classes=10, in_chans=3, image_size=(16, 16))
    full = analyze(network, IMAGE)
    at_once = method.decide(method.context(network, IMAGE)).widths
    touched: list[set[str]] = []
    for number in (1, 2, 3):
        work = portion(full, method, method.budget, (number, 3))
        context = method.context(network, IMAGE, budget=work.budget, exclude=work.exclude, reference=full)
        plan = method.decide(context)
        touched.append({name for name, (before, after) in plan.widths.items() if after < before})
        apply(network, plan)
    assert not touched[0] & touched[1] and not touched[1] & touched[2]
    order = [group.name for group in full.groups]
    assert max(map(order.index, touched[0])) < min(map(order.index, touched[2]))
    ended = {group.name: group.size for group in analyze(network, IMAGE).groups}
    assert ended == {name: after for name, (_, after) in at_once.items()}


def test_one_part_is_the_whole_budget() -> None:
    graph = analyze(build("cifar_resnet20", num_classes=10, in_chans=3, image_size=(16, 16)), IMAGE)
    work = portion(graph, uniform(), Budget(flops=0.5), (1, 1))
    assert (work.budget, work.exclude) == (Budget(flops=0.5), frozenset())


def test_settings_that_do_not_fit_parts_are_errors() -> None:
    graph = analyze(build("cifar_resnet20", num_classes=10, in_chans=3, image_size=(16, 16)), IMAGE)
    with pytest.raises(UserError, match=r"set budget\.allocation=uniform"):
        portion(graph, uniform(allocation="global"), Budget(flops=0.5), (1, 2))
    with pytest.raises(UserError, match=r"recipe\.parts=10 is more than the 9 groups .* levels=\[filter\]"):
        portion(graph, uniform(levels=["filter"]), Budget(flops=0.5), (1, 10))


@pytest.mark.slow
def test_runs_front_to_back_and_without_recovery(tmp_path_factory: pytest.TempPathFactory) -> None:
    words = [
        "budget.flops=0.5", "budget.allocation=uniform", "levels=[filter]", "baseline.training.epochs=1",
        "recipe.calibration_images=64", "trainer=cpu", "study=tests", f"outputs={tmp_path_factory.mktemp('outputs')}",
    ]  # fmt: skip
    parts = [
        "recipe=front_to_back",
        "recipe.parts=2",
        "recipe.round_training.epochs=1",
        "recipe.training.epochs=1",
    ]
    outcome = run(configure([*words, *parts, "method=thinet"]))
    assert 0.48 < outcome.record.budget.reached <= 0.5
    assert outcome.record.plan.masked_vs_pruned < 1e-6
    curves = (outcome.folder.path / "curves.csv").read_text()
    assert "round 1,1" in curves and "recovery,1" in curves
    bare = run(configure([*words, "recipe=none"]))
    assert bare.record.pruned.top1 == bare.record.after_pruning.top1
    assert bare.record.timings.recovery_s == 0
