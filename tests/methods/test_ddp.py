"""Two processes decide like one process, or stop together."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from prunelab.methods import Entropy

pytestmark = pytest.mark.ddp

SCRIPT = Path(__file__).with_name("two_ranks.py")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    return importlib.import_module("two_ranks")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """The data of the ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env={**inherited, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("name", ["l1", "entropy", "taylor"])
def test_two_ranks_decide_the_plan_of_one(ranks: list[dict[str, str]], script: ModuleType, name: str) -> None:
    method = script.method(script.CRITERIA[name])
    plan = method.decide(method.context(script.Module().net, torch.zeros(1, 2, 5, 5), script.loader()))
    assert [seen[name] for seen in ranks] == [plan.digest()] * 2


def test_a_rank_without_images_takes_part(ranks: list[dict[str, str]], script: ModuleType) -> None:
    method = script.method(Entropy(bins=5), images=8)
    plan = method.decide(method.context(script.Module().net, torch.zeros(1, 2, 5, 5), script.loader()))
    assert [seen["one batch for two ranks"] for seen in ranks] == [plan.digest()] * 2


def test_ranks_that_disagree_all_stop(ranks: list[dict[str, str]]) -> None:
    for seen in ranks:
        assert seen["other weights"].startswith("The ranks decided different plans.")
        assert "Different from rank 0: rank 1." in seen["other weights"]


def test_a_failure_on_one_rank_stops_all(ranks: list[dict[str, str]]) -> None:
    assert [seen["failure"] for seen in ranks] == ["rank 1: no scores here"] * 2
