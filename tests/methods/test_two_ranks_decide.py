"""Two processes decide and adjust what one process does, for methods with machinery of their own."""

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
