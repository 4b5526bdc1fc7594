"""Every method that decides without learning has the same plan on the GPU as on the CPU, except for ties."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunelab
from prunelab.calibration import STEPS, Blockwise, Distil, Pair
from prunelab.methods.importance.hrank import MeanRank
from prunelab.structure import PruningPlan

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

import battery

CPU = torch.device("cpu")

SHORT = {
    "abcpruner": ("method.training=null", "method.sources=3", "method.cycles=1"),
    "network_adjustment": ("method.training=null", "method.iterations=2"),
}
"""Settings for methods that would take long, or that train candidates (this needs a whole run)."""

METHODS = [name for name in battery.METHODS if battery.decides_untrained(name)]
"""The others are in tests/gpu/test_learning.py."""

TIE = 1e-4
"""Scores of one group that differ by less than this part of the largest are taken as equal."""


@pytest.mark.parametrize("name", METHODS)
def test_the_plan_is_that_of_the_cpu(name: str, decide: Callable[..., Any], device: torch.device) -> None:
    # Each group keeps the same number, so that a tie stays inside its group.
    words = ("budget.allocation=uniform", *SHORT.get(name, ()))
    there, here = decide(name, device, *words), decide(name, CPU, *words)
    assert next(there.network.parameters()).device == device
    assert _widths(there.plan) == _widths(here.plan)
    for group, kept in here.plan.kept.items():
        if kept == there.plan.kept[group]:
            continue
        assert here.scores is not None, f"{name} has no scores that could tie, but differs in {group}"
        scores = np.asarray(here.scores.channels[group])
        swapped = sorted(set(kept) ^ set(there.plan.kept[group]))
        assert np.ptp(scores[swapped]) <= TIE * np.abs(scores).max(), f"{group}: {scores[swapped]}"


@pytest.mark.parametrize("name", METHODS)
def test_scores_and_refitted_weights_are_those_of_the_cpu(
    name: str, decide: Callable[..., Any], device: torch.device
) -> None:
    words = SHORT.get(name, ())
    there, here = decide(name, device, *words), decide(name, CPU, *words)
    if here.scores is not None:
        for group, scores in here.scores.channels.items():
            scale = max(float(np.abs(scores).max()), 1e-12)
            assert np.abs(there.scores.channels[group] - scores).max() <= 2e-3 * scale, group
    if here.plan.kept == there.plan.kept:
        for key, tensor in here.network.state_dict().items():
            found = there.network.state_dict()[key].cpu()
            torch.testing.assert_close(found, tensor, rtol=2e-2, atol=2e-3, msg=key)


def _widths(plan: PruningPlan) -> dict[str, int]:
    return {group: len(kept) for group, kept in plan.kept.items()}


@pytest.mark.parametrize("side", [8, 32, 40])
def test_ranks_of_maps_are_those_of_the_cpu(side: int, device: torch.device) -> None:
    """For the routines of a GPU up to 32 columns, and for wider maps, of which the CPU decomposes some."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(64, side, side, generator=generator).relu()
    maps[::2] = torch.randn(32, side, 3, generator=generator) @ torch.randn(3, side, generator=generator)
    maps[1::4, :, -1] = maps[1::4, :, 0]
    maps[3] = 0
    metric = MeanRank(len(maps)).to(device)
    metric.update(maps[None].to(device))
    assert metric.compute().tolist() == [int(torch.linalg.matrix_rank(each)) for each in maps]


def test_maps_with_nan_are_found(device: torch.device) -> None:
    maps = torch.eye(8).repeat(4, 1, 1)
    maps[2, 3, 3] = torch.nan
    metric = MeanRank(4).to(device)
    with pytest.raises(torch.linalg.LinAlgError):
        metric.update(maps[None].to(device))
        metric.compute()


@pytest.mark.parametrize("name", STEPS)
def test_a_calibration_step_ends_as_on_the_cpu(
    name: str, small: nn.Module, batches: list[tuple[Tensor, Tensor]], device: torch.device
) -> None:
    step = replace(Distil(), steps=20) if name == "distil" else STEPS[name]
    step = replace(Blockwise(), steps=20) if name == "blockwise" else step
    graph = prunelab.analyze(small, batches[0][0][:1])
    plan = graph.plan(kept={group.name: list(range(0, group.size, 2)) for group in graph.groups})
    errors = []
    for place in (CPU, device):
        full = copy.deepcopy(small).to(place)
        pruned = prunelab.apply(copy.deepcopy(full), plan)
        images = [images.to(place) for images, _ in batches]
        step(Pair(full, pruned, plan, images, images[0][:1], 0))
        assert all(parameter.device == place for parameter in pruned.parameters())
        with torch.no_grad():
            errors.append(float((pruned.eval()(images[0]) - full.eval()(images[0])).square().mean()))
    assert errors[1] == pytest.approx(errors[0], rel=0.05)
