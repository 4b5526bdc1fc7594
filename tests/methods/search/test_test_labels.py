"""Other labels of the test images do not change the decision of a search."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prunelab.cli.config import configure
from prunelab.data.digits import Digits
from prunelab.experiment import run

pytestmark = pytest.mark.slow

CONF = Path(__file__).parents[3] / "conf" / "method"
SEARCHES = {
    "eagleeye": ("method.candidates=3", "method.tolerance=0.1"),
    "amc": ("method.episodes=3", "method.warmup=2"),
    "abcpruner": ("method.sources=2", "method.cycles=1", "method.training.epochs=1"),
    "network_adjustment": ("method.iterations=3", "method.repeats=1", "method.training.epochs=1"),
    "autoslim": ("method.epochs=1", "method.steps=3"),
    "dmcp": ("method.epochs=1",),
    "tas": ("method.epochs=1",),
    "metapruning": (
        "method.epochs=1",
        "method.population=4",
        "method.generations=2",
        "method.mutants=1",
        "method.crossovers=1",
    ),
}


@pytest.fixture
def shuffled(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function after whose call the test images of digits have other labels."""

    def shuffle() -> None:
        read = Digits.read_splits

        def read_shuffled(self: Digits) -> Any:
            splits = read(self)
            source, chosen = splits.test.source, splits.test.indices
            targets = source.targets.copy()
            targets[chosen] = np.random.default_rng(0).permutation(targets[chosen])
            source.targets = targets  # only of the test images: the parts share no image
            return replace(splits)

        monkeypatch.setattr(Digits, "read_splits", read_shuffled)

    return shuffle


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders in which all searches find the same two baselines."""
    return tmp_path_factory.mktemp("outputs")


def test_no_search_is_left_out() -> None:
    searches = {file.stem for file in CONF.glob("*.yaml") if "/search@" in file.read_text()} | {
        "autoslim",
        "dmcp",
        "metapruning",
        "tas",
    }
    assert searches == set(SEARCHES)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_plan_is_the_same_with_other_test_labels(name: str, outputs: Path, shuffled: Any) -> None:
    def decided(folder: str) -> tuple[Any, float]:
        words = [f"method={name}", *SEARCHES[name], "budget.flops=0.5", "baseline.training.epochs=4"]
        words += ["recipe=none", "trainer=cpu", "recipe.calibration_images=64", "sweep.redo=true"]
        words += ["data.train_fraction=0.3", "data.batch_size=32"]
        outcome = run(configure([*words, f"outputs={outputs / folder}"]))
        plan = json.loads((outcome.folder.path / "plan.json").read_text())
        return plan, outcome.record.baseline.top1

    plan, accuracy = decided("true")
    shuffled()
    other, chance = decided("shuffled")
    assert chance < 0.3 < accuracy
    assert plan == other
