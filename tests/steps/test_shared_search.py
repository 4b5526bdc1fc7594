"""Runs of one method with several budgets share its training and its search."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunelab.cli.config import configure
from prunelab.experiment import run
from prunelab.methods import AutoSlim
from prunelab.methods.search.slimming_descent import Descent
from prunelab.records.key import search_key

pytestmark = pytest.mark.slow

SMALL = (
    "model=lenet5", "data.image_size=28", "data.train_fraction=0.1", "trainer=cpu", "recipe=none", "logger=none",
    "baseline.training.epochs=1", "method=autoslim", "method.epochs=1", "method.steps=4", "method.samples=0",
)  # fmt: skip


class Killed(Exception):
    """Stands for a killed process."""


def widths(outputs: Path, budget: float) -> Any:
    """Full and kept width of each group."""
    outcome = run(configure([*SMALL, f"budget.flops={budget}", f"outputs={outputs}"]))
    return outcome.record.plan.widths


def test_one_training_and_one_descent_give_the_networks_of_several_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, best = AutoSlim.training_loss, Descent._best
    steps: list[int] = []
    decided: list[list[int]] = []
    leases: list[bool] = []

    def counted(self: AutoSlim, *given: Any) -> Any:
        steps.append(1)
        return loss(self, *given)

    def watched(self: Descent, row: Any, *given: Any) -> Any:
        if len(decided) == 2 and not leases:
            leases.extend((self.context.folder.parent / name).exists() for name in (".lock", ".lease"))
            raise Killed
        decided.append(row.tolist())
        return best(self, row, *given)

    monkeypatch.setattr(AutoSlim, "training_loss", counted)
    monkeypatch.setattr(Descent, "_best", watched)
    with pytest.raises(Killed):
        widths(tmp_path, 0.5)
    once = len(steps)
    narrow, wide = (widths(tmp_path, budget) for budget in (0.3, 0.5))
    assert leases == [True, True]  # the folder is claimed while one process works in it
    assert len(steps) == once
    assert len({tuple(row) for row in decided}) == len(decided) > 3  # no decision is made twice
    assert sum(kept for _, kept in narrow.values()) < sum(kept for _, kept in wide.values())


def test_the_key_of_a_search_depends_on_neither_the_budget_nor_the_recovery() -> None:
    config = configure([*SMALL, "budget.flops=0.5"])
    method = config["method"]
    other_budget = {**config, "method": {**method, "budget": {**method["budget"], "flops": 0.3}}}
    other_recovery = {**config, "recipe": configure(["recipe=one_shot"])["recipe"], "study": "other"}
    assert search_key(other_budget) == search_key(other_recovery) == search_key(config)
    for change in ({"method": {**method, "min_keep": 0.2}}, {"method": {**method, "steps": 5}}, {"seed": 1}):
        assert search_key({**config, **change}) != search_key(config)
