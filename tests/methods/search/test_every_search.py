"""Laws of every search: it resumes bit by bit, judges nothing twice, finds known widths, and ends at its limit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import prunelab.methods
from prunelab.methods import AMC, ABCPruner, Budget, EagleEye, NetworkAdjustment, SearchMethod
from prunelab.methods.search import AgentSettings
from prunelab.structure import PruningPlan

pytestmark = pytest.mark.slow

Made = Callable[..., SearchMethod]
METHODS: dict[str, Made] = {
    "eagleeye": lambda budget, **more: EagleEye(budget, candidates=60, tolerance=0.1, **more),
    "amc": lambda budget, **more: AMC(
        budget, episodes=30, warmup=10, agent=AgentSettings(decay=0.8, batch_size=16), **more
    ),
    "abcpruner": lambda budget, **more: ABCPruner(budget, sources=4, cycles=2, order="l1", **more),
    "network_adjustment": lambda budget, **more: NetworkAdjustment(budget, iterations=9, repeats=2, **more),
}
LATEST = {"network_adjustment": 4}
"""Searches that need few evaluations: of five networks here, because the sixth equals an earlier one."""

TRAINED = {"network_adjustment"}
"""Searches that find the right widths only if candidates are trained: tested in a file of their own."""

every_search = pytest.mark.parametrize("name", METHODS)


def test_no_search_is_left_out() -> None:
    offered = {getattr(prunelab.methods, name) for name in prunelab.methods.__all__} - {SearchMethod}
    searches = {each for each in offered if isinstance(each, type) and issubclass(each, SearchMethod)}
    assert searches == {type(make(Budget(flops=0.5))) for make in METHODS.values()}


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


@every_search
@pytest.mark.parametrize("die_after", [1, 4, 7])
def test_a_killed_search_ends_like_an_unbroken_one(
    name: str, die_after: int, residual: nn.Module, batches: Any, tmp_path: Path
) -> None:
    die_after = min(die_after, LATEST.get(name, die_after))

    def search(folder: str, die_after: int | None = None) -> tuple[list[tuple[int, ...]], Callable[[], Any]]:
        method = METHODS[name](Budget(flops=0.5), save_every=1)
        context = method.context(
            residual, batches[0][0][:1], batches, validation=batches, folder=tmp_path / folder
        )
        return count(method, die_after), lambda: method.decide(context)

    whole, decide = search("whole")
    expected = decide()
    killed, decide = search("killed", die_after)
    with pytest.raises(Killed):
        decide()
    resumed, decide = search("killed")
    assert decide() == expected
    assert killed + resumed == whole
    assert len(set(whole)) == len(whole) > die_after


@pytest.mark.parametrize("name", sorted(METHODS.keys() - TRAINED))
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_unneeded_channels_are_removed_and_needed_ones_kept(name: str, seed: int, known: Any) -> None:
    """Of group "3" half of the channels are copies or noise; all of group "0" are needed. See ``Known``."""
    module = known(seed)
    method = METHODS[name](Budget(flops=0.65), seed=seed)
    calibration = [tuple(batch) for batch in module.train_dataloader()]
    context = method.context(
        module.net.eval(), torch.zeros(1, 8, 4, 4), calibration, validation=module.val_dataloader()
    )
    plan = method.decide(context)
    assert context.graph.cost.flops(plan) <= 0.65 * context.graph.cost.flops()
    assert plan.widths["0"][1] >= 7 and plan.widths["3"][1] <= 22


@every_search
def test_a_limit_of_evaluations_ends_the_search(name: str, residual: nn.Module, batches: Any) -> None:
    method = METHODS[name](Budget(flops=0.5), evaluations=3)
    judged = count(method)
    method.decide(method.context(residual, batches[0][0][:1], batches, validation=batches))
    assert len(judged) == 3
