"""One of many processes that need a baseline trains it."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Sweeps

pytestmark = pytest.mark.slow

PROCESSES = 4
EPOCHS = 120


def test_one_of_four_processes_trains_the_baseline_and_another_continues_if_it_is_killed(
    sweeps: Sweeps, tmp_path: Path
) -> None:
    words = [f"baseline.training.epochs={EPOCHS}", "recipe.training.epochs=1"]
    budgets = [f"budget.flops={0.3 + 0.05 * number:.2f}" for number in range(PROCESSES)]
    started = {budget: sweeps.start(tmp_path, *words, budget) for budget in budgets}

    def at_work() -> list[str]:
        return [budget for budget in budgets if "waiting for it" not in started[budget].said()]

    checkpoint = "outputs/baselines/*/training/epoch-*.ckpt"
    while len(at_work()) > 1 or not list(tmp_path.glob(checkpoint)):
        assert not list(tmp_path.glob("outputs/baselines/*/metrics.json")), "trained before all others waited"
        time.sleep(0.02)
    (first,) = at_work()
    os.kill(started[first].pid, signal.SIGKILL)
    codes = {budget: sweeps.wait(each) for budget, each in started.items()}
    assert codes == {budget: -signal.SIGKILL if budget == first else 0 for budget in budgets}
    sweeps.run(tmp_path, *words, first)

    (baseline,) = tmp_path.glob("outputs/baselines/*/metrics.json")
    with (baseline.parent / "curves.csv").open(newline="") as lines:
        assert [int(row["epoch"]) for row in csv.DictReader(lines)] == list(range(1, EPOCHS + 1))
    records = [json.loads(file.read_text()) for file in tmp_path.glob("outputs/tests/*/record.json")]
    assert len(records) == PROCESSES
    assert len({record["baseline"]["top1"] for record in records}) == 1
    seconds = sorted(record["timings"]["baseline_s"] for record in records)
    assert seconds[:-1] == [0] * (PROCESSES - 1)
    assert seconds[-1] > 0
