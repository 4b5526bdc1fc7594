"""Strategies meet the budget before any network is created."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch

from prunelab.errors import UserError
from prunelab.methods import Budget, PruningContext
from prunelab.methods.importance import L1Norm
from prunelab.methods.search.strategies import StrategySampler
from prunelab.methods.search.widths import WidthSpace
from prunelab.models import build
from prunelab.structure import analyze


@pytest.fixture(scope="module")
def resnet20() -> Any:
    model = build("cifar_resnet20", num_classes=10)
    return model, analyze(model, torch.zeros(1, 3, 32, 32))


def space(resnet20: Any, keep: float = 0.5, seed: int = 0) -> WidthSpace:
    model, graph = resnet20
    context = PruningContext(model, graph, Budget(flops=keep), seed=seed)
    return WidthSpace.of(context, L1Norm().score(context))


def sampler(**settings: Any) -> StrategySampler:
    return StrategySampler(
        **{
            "count": 50,
            "min_rate": 0.0,
            "max_rate": 0.7,
            "tolerance": 0.01,
            "draws": 100_000,
            "scale": True,
            **settings,
        }
    )


def test_all_strategies_meet_the_budget_and_differ(resnet20: Any) -> None:
    start = time.perf_counter()
    rows = sampler().draw(space(resnet20))
    assert time.perf_counter() - start < 5
    fractions = space(resnet20).costs(rows) / space(resnet20).scale
    assert rows.shape == (50, 12) and len(np.unique(rows, axis=0)) == 50
    assert fractions.max() <= 0.5 and fractions.min() >= 0.49
    sizes = np.array([group.size for group in resnet20[1].groups])
    assert (rows >= np.floor(0.3 * sizes)).all()


def test_the_seed_decides(resnet20: Any) -> None:
    first, again, other = (sampler().draw(space(resnet20, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("keep", [0.95, 0.2])
def test_rates_are_scaled_if_too_few_draws_meet_the_budget(resnet20: Any, keep: float) -> None:
    found = space(resnet20, keep)
    rows = sampler(draws=4096).draw(found)
    fractions = found.costs(rows) / found.scale
    assert len(rows) == 50 and keep - 0.06 < fractions.min() <= fractions.max() <= keep


def test_without_scaling_that_is_an_error_with_advice(resnet20: Any) -> None:
    with pytest.raises(UserError, match=r"0 of 4096 strategies meet budget.flops=0.1 .* Change max_rate"):
        sampler(draws=4096, scale=False).draw(space(resnet20, 0.1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_rate": 0.5, "max_rate": 0.6}, "fractions from 0 to 1"),
        ({"max_rate": 0.0}, "different fractions"),
        ({"tolerance": -0.1}, "tolerance=-0.1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        sampler(**settings)
