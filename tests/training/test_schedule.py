"""Learning-rate factors at single steps, worked out by hand. Ten epochs of ten steps each."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from prunelab.training import Training, learning_rate_factor
from prunelab.training.schedule import make_schedule


def factor(step: int, **settings: Any) -> float:
    return learning_rate_factor(Training(epochs=10, **settings), step, total_steps=100)


def test_constant() -> None:
    assert [factor(step, schedule="constant") for step in (0, 50, 99, 100)] == [1, 1, 1, 1]


def test_multistep_falls_at_the_first_step_of_each_milestone() -> None:
    settings = {"schedule": "multistep", "milestones": [4, 7.5], "gamma": 0.1}
    steps = (0, 39, 40, 74, 75, 100)
    assert [factor(step, **settings) for step in steps] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine() -> None:
    # (1 + cos(pi * step / 100)) / 2: cos 60 degrees = 1/2, cos 90 = 0, cos 120 = -1/2
    values = [factor(step, schedule="cosine") for step in (0, 50, 100)]
    assert values == pytest.approx([1, 0.5, 0])
    assert learning_rate_factor(Training(epochs=3), 1, total_steps=3) == pytest.approx(0.75)
    assert learning_rate_factor(Training(epochs=3), 2, total_steps=3) == pytest.approx(0.25)


def test_warm_up_rises_linearly_to_the_full_rate() -> None:
    settings = {"schedule": "constant", "warmup_epochs": 0.9}  # 9 steps
    steps = (0, 1, 4, 8, 9, 10)
    assert [factor(step, **settings) for step in steps] == pytest.approx([0.1, 0.2, 0.5, 0.9, 1, 1])


def test_cosine_starts_after_the_warm_up() -> None:
    settings = {"schedule": "cosine", "warmup_epochs": 2}  # 20 steps, then 80 of the cosine
    steps = (0, 19, 20, 60, 100)
    expected = [1 / 21, 20 / 21, 1, 0.5, 0]
    assert [factor(step, **settings) for step in steps] == pytest.approx(expected)


def test_milestones_count_from_the_start_of_training() -> None:
    settings = {"schedule": "multistep", "milestones": [4], "warmup_epochs": 2}
    assert [factor(step, **settings) for step in (20, 39, 40)] == pytest.approx([1, 1, 0.1])


def test_one_cycle_peaks_after_30_percent() -> None:
    steps = (0, 29, 99)
    assert [factor(step, schedule="one_cycle") for step in steps] == pytest.approx([1 / 25, 1, 1 / 250_000])


@pytest.mark.parametrize(("warmup_epochs", "pct_start"), [(0, 0.3), (1, 0.1), (4, 0.4)])
def test_one_cycle_is_that_of_torch(warmup_epochs: float, pct_start: float) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    reference = OneCycleLR(optimizer, 2.0, total_steps=100, pct_start=pct_start, cycle_momentum=False)
    for step in range(100):
        ours = 2.0 * factor(step, schedule="one_cycle", warmup_epochs=warmup_epochs)
        assert ours == pytest.approx(reference.get_last_lr()[0]), step
        optimizer.step()
        if step < 99:
            reference.step()


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant", "multistep"])
@pytest.mark.parametrize("total_steps", [0, 1, 2, 3])
def test_very_short_fits_have_a_rate_too(schedule: str, total_steps: int) -> None:
    settings = Training(epochs=2, schedule=schedule, milestones=[1], warmup_epochs=1)
    for step in range(total_steps + 1):
        assert 0 <= learning_rate_factor(settings, step, total_steps) <= 1


def test_the_scheduler_multiplies_the_rate_of_every_group() -> None:
    groups = [{"params": [torch.zeros(1, requires_grad=True)]} for _ in range(2)]
    optimizer = torch.optim.SGD(groups, lr=0.4)
    scheduler = make_schedule(optimizer, Training(epochs=1, lr=0.4), total_steps=2)
    rates = []
    for _ in range(2):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates[0] == pytest.approx([0.4, 0.4])
    assert rates[1] == pytest.approx([0.2, 0.2])
