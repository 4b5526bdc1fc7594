"""experiments/benchmarks/gpu.py: a trial on the processor executes every row, and continues where it stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).parents[2] / "experiments/benchmarks"
MODULES = ("gpu", "gpu_networks", "gpu_timing", "gpu_training", "scoring", "timing")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a trial with arguments; gives the record."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    compile_with = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_with(self, backend="eager"))
    deterministic = torch.are_deterministic_algorithms_enabled()
    import gpu

    def run(*arguments: str) -> dict[str, Any]:
        words = ["gpu.py", "--device", "cpu", "--quick", "--records", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        gpu.main()
        (file,) = tmp_path.glob("*.json")
        record: dict[str, Any] = json.loads(file.read_text())
        return record

    yield run
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.slow
def test_every_row_can_be_measured(benchmark: Callable[..., dict[str, Any]]) -> None:
    record = benchmark()
    import gpu

    for part in gpu.PARTS:
        assert set(gpu.FIRST[part]) <= set(record[part]), part  # they come first: their names must be right
        for name, row in record[part].items():
            figures = [value for value in row.values() if value is not None]
            assert all(value >= 0 for value in figures), (part, name)
    assert len(record["training"]) == 8
    assert {name.split(", ")[0] for name in record["scoring"]} == {"cifar_resnet56", "resnet50"}
    assert len(record["latency"]) == 13
    assert all(row["largest_difference"] == 0 for row in record["ranks"].values())


def test_a_benchmark_continues_with_the_missing_rows(benchmark: Callable[..., dict[str, Any]]) -> None:
    parts = ("--parts", "ceilings", "ranks")
    first = benchmark(*parts, "--minutes", "0")
    assert list(first["ceilings"]) == ["product"] and "ranks" not in first
    second = benchmark(*parts)
    assert second["ceilings"]["product"] == first["ceilings"]["product"]
    assert second["ceilings"]["copy"]["machine"] == 1 and len(second["ranks"]) == 5
    again = benchmark("--parts", "ceilings", "--again")
    assert again["ceilings"]["product"]["machine"] == 2 and again["ranks"] == second["ranks"]


def test_without_a_gpu_nothing_is_measured(
    benchmark: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    gpu.main()
    assert capsys.readouterr().out == "No CUDA GPU: nothing is measured.\n"
