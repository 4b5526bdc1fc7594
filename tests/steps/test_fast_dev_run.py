"""A trial does everything once, quickly, and is distinguished from a real run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.records import RunFolder
from prunelab.steps import Setup

pytestmark = pytest.mark.slow

TRIAL = ("budget.flops=0.5", "debug=fast_dev_run", "trainer=cpu", "study=tests")


def test_a_trial_does_everything_once(tmp_path: Path) -> None:
    words = ["recipe=iterative", "method=slimming", "data.eval_batch_size=16", f"outputs={tmp_path}"]
    outcome = run(configure([*TRIAL, *words]))
    record = outcome.record
    with (outcome.folder.path / "curves.csv").open(newline="") as lines:
        phases = [(row["phase"], row["epoch"]) for row in csv.DictReader(lines)]
    assert phases == [("learning 1", "1"), ("round 1", "1"), ("learning", "1"), ("recovery", "1")]
    assert record.config["fast_dev_run"] == 1
    assert record.config["recipe"]["training"]["epochs"] == 20, (
        "the record contains the settings of the command"
    )
    for accuracy in (record.baseline, record.after_pruning, record.pruned):
        assert (accuracy.top1 * 16).is_integer(), "one batch of test images"
    assert 0.47 < record.budget.reached <= 0.5


def test_scoring_sees_few_images_and_few_candidates() -> None:
    words = [
        "method=eagleeye",
        "method.candidates=1000",
        "recipe.calibration_images=500",
        "data.eval_batch_size=16",
    ]
    method = Setup.of(configure([*TRIAL, *words, "fast_dev_run=2"])).method
    assert (method.images, method.validation_images) == (32, 32)
    assert method.sampler.count == 2  # type: ignore[attr-defined]
    assert Setup.of(configure(["budget.flops=0.5", *words])).method.images == 500


def test_trials_are_separate_from_real_runs() -> None:
    assert RunFolder.of(configure([*TRIAL])).path.parent == Path("outputs/fast_dev_run/tests")


@pytest.mark.parametrize("batches", ["0", "1.5", "true"])
def test_batches_are_counted(batches: str) -> None:
    with pytest.raises(UserError, match="fast_dev_run must be null or a number of batches"):
        Setup.of(configure(["budget.flops=0.5", f"fast_dev_run={batches}"]))
