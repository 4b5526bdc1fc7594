"""The table of allocations in the README of the benchmarks is that of its records."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "experiments" / "benchmarks"


@pytest.mark.slow
def test_the_table_of_allocations_is_made_from_the_records(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("allocation_benchmark", FOLDER / "allocation.py")
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, benchmark)  # where dataclasses look for it
    spec.loader.exec_module(benchmark)
    assert benchmark.table_of(benchmark.RECORD) in (FOLDER / "README.md").read_text(encoding="utf-8")
