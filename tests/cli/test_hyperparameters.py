"""hydra/sweeper=optuna: the searched values, the objective, and the continuation of a search."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from tests.cli.conftest import Sweeps

from prunelab.cli.hyperparameters import SearchSettings, search
from prunelab.cli.summary import Job
from prunelab.errors import UserError
from prunelab.records import Accuracy

pytestmark = pytest.mark.slow

STRENGTH = "method.strength=tag(log,interval(1e-5,1e-2))"


def parsed(*words: str) -> list[Any]:
    return OverridesParser.create().parse_overrides(list(words))


class Launched:
    """Replaces a launcher: the accuracy of a run is ``worth`` of its values."""

    def __init__(self, worth: Any) -> None:
        self.worth = worth
        self.batches: list[list[list[str]]] = []

    def __call__(self, runs: Any, first: int) -> list[JobReturn]:
        assert first == sum(map(len, self.batches))
        self.batches.append([list(run) for run in runs])
        return [self._returned(run) for run in runs]

    def _returned(self, run: list[str]) -> JobReturn:
        value = self.worth(dict(word.split("=") for word in run))
        record: Any = None if value is None else type("R", (), {"validation": Accuracy(value, None)})
        returned = JobReturn(status=JobStatus.COMPLETED)
        returned.return_value = Job(" ".join(run), record, Path("run"), error="no" if value is None else None)
        return returned


def test_proposals_are_in_their_ranges_and_batches() -> None:
    launched = Launched(lambda values: float(values["a"]))
    words = parsed("seed=3", "a=interval(0,1)", "b=int(interval(2,4))", "c=range(4,17,4)", "d=x,y")
    search(words, SearchSettings(trials=7, parallel=3), launched)
    assert [len(batch) for batch in launched.batches] == [3, 3, 1]
    for run in (run for batch in launched.batches for run in batch):
        values = dict(word.split("=") for word in run)
        assert values["seed"] == "3"
        assert 0 <= float(values["a"]) <= 1
        assert values["b"] in "234" and values["c"] in ("4", "8", "12", "16") and values["d"] in "xy"


def test_a_search_approaches_the_best_value_despite_failures() -> None:
    def worth(values: dict[str, str]) -> float | None:
        at = float(values["a"])
        return None if at < 0.2 else 1 - abs(at - 0.7)

    launched = Launched(worth)
    search(parsed("a=interval(0,1)"), SearchSettings(trials=40), launched)
    tried = [float(batch[0][0].removeprefix("a=")) for batch in launched.batches]
    assert min(abs(at - 0.7) for at in tried[10:]) < 0.05
    assert sum(abs(at - 0.7) < 0.2 for at in tried[10:]) > 15  # 12 of 30 if drawn evenly


def test_a_longer_search_begins_like_a_shorter_one() -> None:
    short, long = Launched(lambda values: float(values["a"])), Launched(lambda values: float(values["a"]))
    search(parsed("a=interval(0,1)"), SearchSettings(trials=12), short)
    search(parsed("a=interval(0,1)"), SearchSettings(trials=15), long)
    assert long.batches[:12] == short.batches


def test_nothing_to_search_and_unknown_settings_are_said() -> None:
    with pytest.raises(UserError, match="no setting has a range"):
        search(parsed("seed=1"), SearchSettings(), Launched(None))
    with pytest.raises(UserError, match=r"There is no key hydra\.sweeper\.trial\. Did you mean 'trials'"):
        SearchSettings.of({"trial": 3})
    with pytest.raises(
        UserError, match=r"hydra\.sweeper\.parallel must be a whole number, at least 1, not 0"
    ):
        SearchSettings(parallel=0)


def test_without_optuna_the_message_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"needs Optuna: pip install 'prunelab\[optuna\]'"):
        search(parsed("a=interval(0,1)"), SearchSettings(), Launched(None))


def test_three_trials_on_digits_are_judged_by_validation_images(sweeps: Sweeps, tmp_path: Path) -> None:
    search = (
        "-m", "hydra/sweeper=optuna", "hydra.sweeper.trials=3", "data=digits", "trainer=cpu", "budget.flops=0.4",
        "method=slimming", STRENGTH, "method.epochs=1", "fast_dev_run=2", "study=tests",
    )  # fmt: skip
    said = sweeps.run(tmp_path, *search, study=())
    assert "3 finished, 0 already there, 0 failed." in said
    values = {}
    for file in (tmp_path / "outputs" / "tests").glob("*/record.json"):
        record = json.loads(file.read_text())
        with file.with_name("curves.csv").open(newline="") as lines:
            last = list(csv.DictReader(lines))[-1]
        assert record["validation"]["top1"] == pytest.approx(float(last["val/top1"]), abs=1e-5)
        values[file.parent.name] = record["validation"]["top1"], record["config"]["method"]["strength"]
    best = re.search(
        r"Best of 3 trials: method.strength=(\S+), (\S+) % on validation images, outputs/tests/(\w+)", said
    )
    assert best is not None
    assert 100 * values[best[3]][0] == pytest.approx(100 * max(values.values())[0], abs=0.01)
    assert float(best[1]) == values[best[3]][1]
    assert float(best[2]) == pytest.approx(100 * values[best[3]][0], abs=0.01)
    assert "0 finished, 3 already there, 0 failed." in sweeps.run(tmp_path, *search, study=())
