"""Methods with machinery of their own go through a whole run on digits, from one baseline."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.experiment import run

METHODS = {
    "eagleeye": ("method.candidates=3",),
    "thinet": (),
    "channel_pruning": ("levels=[filter]",),
    "subspace": (),
    "hrank": (),
    "pfa": (),
    "nisp": (),
    "curl": (),
    "scsp": (),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run(outputs: Path, name: str) -> None:
    words = (
        f"method={name}",
        *METHODS[name],
        "budget.flops=0.5",
        "baseline.training.epochs=1",
        "recipe.training.epochs=1",
        "recipe.calibration_images=64",
        "trainer=cpu",
        "study=tests",
        f"outputs={outputs}",
    )
    record = run(configure(list(words))).record
    assert record.method == name
    assert 0.47 < record.budget.reached <= 0.5
    assert record.plan.masked_vs_pruned < 1e-6
