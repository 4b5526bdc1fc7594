"""The key of a run changes with everything that can change its result, and with nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.records import baseline_key, run_key

BUDGET = "budget.flops=0.5"


@pytest.mark.parametrize(
    "word",
    [
        "study=other",
        "outputs=elsewhere",
        "sweep.retry_failed=true",
        "logger=wandb",
        "trainer=cpu",
        "trainer.devices=4",
        "trainer.strategy=ddp",
    ],
)
def test_who_watches_and_where_it_runs_do_not_count(word: str) -> None:
    assert run_key(configure([BUDGET, word])) == run_key(configure([BUDGET]))


@pytest.mark.parametrize(
    "word",
    [
        "seed=1",
        "method=l2",
        "method.criterion.reduction=max",
        "budget.flops=0.4",
        "levels=[filter]",
        "recipe.training.epochs=7",
        "baseline.training.lr=0.2",
        "trainer.precision=bf16-mixed",
        "model.arguments.shortcut=B",
    ],
)
def test_everything_else_counts(word: str) -> None:
    assert run_key(configure([BUDGET, word])) != run_key(configure([BUDGET]))


def test_a_setting_that_came_later_counts_once_it_is_used() -> None:
    now = configure([BUDGET])
    later = ("exclude", "exact", "cardinality", "fast_dev_run")
    before = {name: value for name, value in now.items() if name not in later}
    before["method"] = {name: value for name, value in now["method"].items() if name not in later}
    assert run_key(now) == run_key(before)
    for word in ("exclude=[conv1]", "exact=true", "cardinality=true"):
        assert run_key(configure([BUDGET, word])) != run_key(now)


def test_a_trial_is_a_run_of_its_own_and_so_is_its_baseline() -> None:
    real, trial = configure([BUDGET]), configure([BUDGET, "debug=fast_dev_run"])
    assert run_key(trial) != run_key(real)
    assert baseline_key(trial) != baseline_key(real)


def test_a_baseline_is_shared_by_methods_budgets_and_recipes() -> None:
    reference = baseline_key(configure([BUDGET]))
    for words in (["method=l2"], ["budget.flops=0.3"], ["recipe=iterative"], ["levels=[block]"]):
        assert baseline_key(configure([BUDGET, *words])) == reference
    for words in (["seed=1"], ["baseline.training.epochs=2"], ["model=resnet32"], ["data.batch_size=32"]):
        assert baseline_key(configure([BUDGET, *words])) != reference


def test_a_baseline_file_is_known_by_its_content(tmp_path: Path) -> None:
    for name, content in {"a": b"weights", "b": b"weights", "c": b"other"}.items():
        (tmp_path / name).write_bytes(content)
    keys = [
        run_key(configure([BUDGET, "baseline=file", f"baseline.path={tmp_path / name}"])) for name in "abc"
    ]
    assert keys[0] == keys[1] != keys[2]
    with pytest.raises(UserError, match=r"baseline file .*missing cannot be read.*baseline\.path"):
        run_key(configure([BUDGET, "baseline=file", f"baseline.path={tmp_path / 'missing'}"]))


def test_the_folder_counts_only_where_it_says_which_images() -> None:
    published = [configure([BUDGET, "data=cifar10", f"data.root={root}"]) for root in ("a", "b")]
    assert run_key(published[0]) == run_key(published[1])
    own = [configure([BUDGET, "data=image_folder", f"data.root={root}"]) for root in ("a", "b", "./a")]
    assert run_key(own[0]) == run_key(own[2]) != run_key(own[1])


def test_the_length_of_learning_counts_for_methods_that_learn_alone() -> None:
    short, shorter = "+learning_epochs=2", "+learning_epochs=1"
    assert run_key(configure([BUDGET, short])) == run_key(configure([BUDGET]))
    learning = [BUDGET, "method=slimming"]
    assert run_key(configure([*learning, short])) != run_key(configure([*learning, shorter]))


def test_a_baseline_file_that_is_a_number_is_looked_for() -> None:
    with pytest.raises(UserError, match="baseline file 5 cannot be read"):
        run_key(configure(["budget.flops=0.5", "baseline=file", "baseline.path=5"]))
