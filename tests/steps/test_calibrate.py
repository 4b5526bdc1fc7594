"""Runs whose recipe calibrates: the record, and what a resumed run repeats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunelab.calibration import STEPS, LeastSquares
from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.records import Record
from prunelab.steps import rounds


def config(root: Path, *words: str) -> dict[str, Any]:
    """A run on digits without training after pruning."""
    common = ["budget.flops=0.6", "baseline.training.epochs=2", "trainer=cpu", "study=tests", "recipe=none"]
    return configure([*common, "method=fisher", "budget.allocation=per_cost", *words, f"outputs={root}"])


@pytest.mark.slow
def test_the_record_has_the_accuracy_after_each_step_and_a_resumed_run_repeats_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path, "recipe.calibration=[bias,sequential]", "recipe.calibration_images=128")

    def interrupted(*arguments: Any, **more: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_recover", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(settings)

    def repeated(self: LeastSquares, pair: object) -> None:
        raise AssertionError("a step that was stored is repeated")

    monkeypatch.setattr(LeastSquares, "__call__", repeated)
    outcome = run(settings)

    record = outcome.record
    assert [each.step for each in record.after_calibration] == ["bias", "sequential"]
    assert record.after_calibration[-1].top1 == record.pruned.top1
    assert record.after_calibration[-1].top1 > record.after_pruning.top1
    assert Record.from_json((outcome.folder.path / "record.json").read_text()) == record
    assert record.timings.recovery_s >= sum(each.seconds for each in record.after_calibration) > 0


@pytest.mark.slow
def test_a_damaged_step_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(tmp_path, "recipe.calibration=[bias]", "recipe.calibration_images=64")
    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_recover", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(settings)
    (stored,) = tmp_path.rglob("*-calibrated-1.safetensors")
    stored.write_bytes(stored.read_bytes()[:100])

    assert [each.step for each in run(settings).record.after_calibration] == ["bias"]


def test_every_step_is_a_name_on_the_command_line(tmp_path: Path) -> None:
    names = ",".join(STEPS)
    assert config(tmp_path, f"recipe.calibration=[{names}]")["recipe"]["calibration"] == list(STEPS)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["recipe.calibration=[sequental]"], r"recipe\.calibration.*sequental.*sequential"),
        (["recipe.calibration=bias"], r"recipe\.calibration='bias' is one word"),
        (
            ["recipe=one_shot", "recipe.weights=fresh", "recipe.calibration=[bias]"],
            r"recipe\.weights=fresh",
        ),
        (
            ["recipe.calibration=[{_target_:prunelab.calibration.LeastSquares,positions:0}]"],
            "positions of at least 1",
        ),
    ],
)
def test_invalid_steps_are_errors_before_the_run_starts(
    words: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        run(config(tmp_path, *words))
    assert not list(tmp_path.rglob("record.json"))
