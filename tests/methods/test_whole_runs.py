"""A whole run of every method of conf/method on digits, from one baseline."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.experiment import run
from prunelab.methods import LearningMethod
from prunelab.steps import Setup

pytestmark = pytest.mark.slow

METHODS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))
WORDS = {
    "eagleeye": ("method.candidates=3",),
    "amc": ("method.episodes=3",),
    "autoslim": ("method.steps=3",),
    "abcpruner": ("method.evaluations=3", "method.training.epochs=1"),
    "network_adjustment": ("method.iterations=2", "method.repeats=1", "method.training.epochs=1"),
    "metapruning": (
        "method.population=6",
        "method.generations=2",
        "method.parents=2",
        "method.mutants=2",
        "method.crossovers=2",
    ),
    "channel_pruning": ("levels=[filter]",),
    "slimming": ("levels=[filter,stage,block]",),
    "ssl": ("levels=[filter,stage,block]", "method.step=subgradient"),
}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("name", METHODS)
def test_a_whole_run(outputs: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(
        "prunelab.steps.task.LATENCY_SECONDS", 0.0
    )  # takes half of the time and has no effect here
    words = (
        f"method={name}",
        *WORDS.get(name, ()),
        "budget.flops=0.5",
        "baseline.training.epochs=1",
        "recipe.training.epochs=1",
        "recipe.calibration_images=64",
        "data.train_fraction=0.4",
        "+learning_epochs=2",
        "trainer=cpu",
        "study=tests",
        f"outputs={outputs}",
    )
    config = configure(list(words))
    outcome = run(config)
    record = outcome.record
    assert record.method == name
    assert 0.47 < record.budget.reached <= 0.5
    assert record.budget.allocation == config["method"].get("allocation", "global")
    assert record.plan.masked_vs_pruned < 1e-6

    with (outcome.folder.path / "curves.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    learns = isinstance(Setup.of(config).method, LearningMethod)
    assert [row["phase"] for row in rows] == ["learning"] * 2 * learns + ["recovery"]
    for row in rows[:-1]:
        watched = [float(row[column]) for column in row if column.startswith("learning/")]
        assert watched and all(map(math.isfinite, watched))
