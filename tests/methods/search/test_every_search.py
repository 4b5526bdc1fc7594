"""Laws of every search of conf/method: it resumes bit by bit, judges nothing twice, finds known widths, and ends at its
limit of evaluations."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import battery

from prunelab.methods import SearchMethod
from prunelab.structure import PruningPlan

pytestmark = pytest.mark.slow

SEARCHES = [name for name in battery.METHODS if issubclass(battery.class_of(name), SearchMethod)]
every_search = pytest.mark.parametrize("name", SEARCHES)

TRAINED = {"network_adjustment"}
"""Searches that find the right widths only if candidates are trained: tested in a file of their own."""

THOROUGH: dict[str, dict[str, Any]] = {
    "eagleeye": {"candidates": 60, "tolerance": 0.1},
    "amc": {"episodes": 30, "warmup": 10, "agent.decay": 0.8, "agent.batch_size": 16},
    "abcpruner": {"sources": 4, "cycles": 2, "order": "l1"},
}
"""Changes to the battery's small settings with which a search finds known widths."""


class Killed(Exception):
    """Stands for a killed process."""


def count(method: SearchMethod, die_after: int | None = None) -> list[tuple[int, ...]]:
    """Let ``method`` record the widths that it judges, and die after some of them."""
    judged: list[tuple[int, ...]] = []
    judge_of = method.judge

    def counting(context: Any) -> Any:
        judge = judge_of(context)

        def counted(plans: Sequence[PruningPlan]) -> Any:
            if die_after is not None and len(judged) >= die_after:
                raise Killed
            judged.extend(tuple(len(kept) for kept in plan.kept.values()) for plan in plans)
            return judge(plans)

        return counted

    method.judge = counting  # type: ignore[method-assign]
    return judged


def searching(
    name: str, folder: Path | None = None, die_after: int | None = None, **changes: Any
) -> tuple[list[tuple[int, ...]], Callable[[], Any]]:
    """The widths that a search of the battery's residual network has judged, and the function that starts it."""
    method = battery.made(name, **changes)
    context = battery.context_of(method, battery.drawn(battery.Residual()), folder=folder)
    return count(method, die_after), lambda: method.decide(context)


@every_search
def test_a_killed_search_ends_like_an_unbroken_one(name: str, tmp_path: Path) -> None:
    whole, decide = searching(name, tmp_path / "whole", save_every=1)
    expected = decide()
    assert len(set(whole)) == len(whole) > 1
    for die_after in {1, len(whole) // 2, len(whole) - 1}:
        folder = tmp_path / f"killed_{die_after}"
        killed, decide = searching(name, folder, die_after, save_every=1)
        with pytest.raises(Killed):
            decide()
        resumed, decide = searching(name, folder, save_every=1)
        assert decide() == expected
        assert killed + resumed == whole


@pytest.mark.parametrize("name", sorted(set(SEARCHES) - TRAINED))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unneeded_channels_are_removed_and_needed_ones_kept(name: str, seed: int, known: Any) -> None:
    """Of group "3" half of the channels are copies or noise; all of group "0" are needed. See ``Known``."""
    module = known(seed)
    method = battery.made(
        name, budget=("flops", 0.65), seed=seed, validation_images=5000, **THOROUGH.get(name, {})
    )
    calibration = [tuple(batch) for batch in module.train_dataloader()]
    context = method.context(
        module.net.eval(), torch.zeros(1, 8, 4, 4), calibration, validation=module.val_dataloader()
    )
    plan = method.decide(context)
    assert context.graph.cost.flops(plan) <= 0.65 * context.graph.cost.flops()
    assert plan.widths["0"][1] >= 7 and plan.widths["3"][1] <= 22


@every_search
def test_a_limit_of_evaluations_ends_the_search(name: str) -> None:
    judged, decide = searching(name, evaluations=2)
    decide()
    assert len(judged) == 2
