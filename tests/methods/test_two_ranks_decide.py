"""Two processes decide and adjust what one process does: methods with machinery of their own, and the criteria that
``test_ddp`` has no Trainer for."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("two_ranks_decide.py")


def test_two_ranks_do_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    alone = importlib.import_module("two_ranks_decide").answers()
    command = [sys.executable, str(SCRIPT)]
    inherited = {**os.environ, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store"), str(tmp_path)],
            env=inherited,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    for process in ranks:
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == alone


def test_no_method_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, in ``test_ddp`` and in ``training/test_two_ranks_learn``."""
    for folder in (SCRIPT.parent, SCRIPT.parent / "training"):
        monkeypatch.syspath_prepend(str(folder))
    decide, ddp, learn = map(importlib.import_module, ("two_ranks_decide", "two_ranks", "two_ranks_learn"))
    conf = Path(__file__).parents[2] / "conf" / "method"
    assert {*decide.methods(), *ddp.CRITERIA, *learn.methods(ranks=1)} == {
        file.stem for file in conf.glob("*.yaml")
    }
