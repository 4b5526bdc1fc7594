"""Every method that learns: two processes learn the weights of one process, and decide the same plan."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("two_ranks_learn.py")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The weights and plans of each of two ranks."""
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


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The weights and plans of one process."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        return importlib.import_module("two_ranks_learn").answers()  # type: ignore[no-any-return]
    finally:
        sys.path.remove(str(SCRIPT.parent))


@pytest.mark.ddp
def test_two_ranks_learn_and_decide_as_one(ranks: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert alone
    for name, expected in alone.items():
        for seen in ranks:
            assert seen[name]["weights"] == pytest.approx(expected["weights"], abs=1e-5), name
            assert seen[name]["plan"] == expected["plan"], name
