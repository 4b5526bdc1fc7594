"""Every method that decides without learning comes to the same plan on the GPU as on the CPU, but for ties."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

import battery

METHODS = [name for name in battery.METHODS if battery.decides_untrained(name)]
"""The others are in tests/gpu/test_learning.py."""

TIE = 1e-4
"""Scores of one group that differ by less than this part of the largest are taken as equal."""


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_is_that_of_the_cpu(name: str, decide: Callable[..., Any]) -> None:
    words = (
        "budget.allocation=uniform",
    )  # each group keeps the same number, so that a tie stays inside its group
    there, here = decide(name, "cuda", *words), decide(name, "cpu", *words)
    assert next(there.network.parameters()).is_cuda
    assert {group: len(kept) for group, kept in there.plan.kept.items()} == {
        group: len(kept) for group, kept in here.plan.kept.items()
    }
    for group, kept in here.plan.kept.items():
        if kept == there.plan.kept[group]:
            continue
        assert here.scores is not None, (
            f"{name} has no scores that could tie, but decides otherwise for {group}"
        )
        scores = np.asarray(here.scores.channels[group])
        swapped = sorted(set(kept) ^ set(there.plan.kept[group]))
        assert np.ptp(scores[swapped]) <= TIE * np.abs(scores).max(), f"{group}: {scores[swapped]}"


@pytest.mark.parametrize("name", METHODS)
def test_scores_and_refitted_weights_are_those_of_the_cpu(name: str, decide: Callable[..., Any]) -> None:
    there, here = decide(name, "cuda"), decide(name, "cpu")
    if here.scores is not None:
        for group, scores in here.scores.channels.items():
            scale = max(float(np.abs(scores).max()), 1e-12)
            assert np.abs(there.scores.channels[group] - scores).max() <= 2e-3 * scale, group
    if here.plan.kept == there.plan.kept:
        for key, tensor in here.network.state_dict().items():
            torch.testing.assert_close(
                there.network.state_dict()[key].cpu(), tensor, rtol=2e-2, atol=2e-3, msg=key
            )
