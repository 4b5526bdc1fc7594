"""The stage tables of experiments/deployment are those of its records."""

from __future__ import annotations

import importlib.util
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "experiments" / "deployment"


def test_the_stage_tables_are_made_from_the_records() -> None:
    spec = importlib.util.spec_from_file_location("deployment_stages", FOLDER / "stages.py")
    assert spec is not None and spec.loader is not None
    stages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stages)
    assert stages.text_of(stages.read_tables()) == (FOLDER / "stages.md").read_text(encoding="utf-8")
