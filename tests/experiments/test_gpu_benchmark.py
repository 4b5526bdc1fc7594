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

from prunelab.cli.config import configure
from prunelab.methods import CURL, ImportanceMethod
from prunelab.steps.setup import made

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))

import battery

BENCHMARKS = Path(__file__).parents[2] / "experiments/benchmarks"
MODULES = ("gpu", "gpu_networks", "gpu_timing", "gpu_training", "scoring", "timing")


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs a trial with arguments; returns the record."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    compile_with = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **_: compile_with(self, backend="eager"))
    deterministic = torch.are_deterministic_algorithms_enabled()
    import gpu

    def run(*arguments: str, status: int = 0) -> dict[str, Any]:
        words = ["gpu.py", "--device", "cpu", "--quick", "--records", str(tmp_path), *arguments]
        monkeypatch.setattr(sys, "argv", words)
        assert gpu.main() == status
        (file,) = tmp_path.glob("*.json")
        record: dict[str, Any] = json.loads(file.read_text())
        return record

    yield run
    torch.use_deterministic_algorithms(deterministic, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.devices
def test_every_row_can_be_measured(benchmark: Callable[..., dict[str, Any]]) -> None:
    record = benchmark()
    import gpu

    for part in gpu.PARTS:
        assert set(gpu.FIRST[part]) <= set(record[part]), part  # they come first: their names must be right
        for name, row in record[part].items():
            figures = [value for value in row.values() if value is not None]
            assert all(value >= 0 for value in figures), (part, name)
    assert len(record["training"]) == 8
    assert list(record["together"]) == ["cifar_resnet56, 2 at a time"]
    assert {name.split(", ")[0] for name in record["scoring"]} == {"cifar_resnet56", "resnet50"}
    assert len(record["latency"]) == 13
    assert all(row["largest_difference"] == 0 for row in record["ranks"].values())


@pytest.mark.slow
def test_a_benchmark_continues_with_the_missing_rows(benchmark: Callable[..., dict[str, Any]]) -> None:
    parts = ("--parts", "ceilings", "ranks")
    first = benchmark(*parts, "--minutes", "0")
    assert list(first["ceilings"]) == ["product"] and "ranks" not in first
    second = benchmark(*parts)
    assert second["ceilings"]["product"] == first["ceilings"]["product"]
    assert second["ceilings"]["copy"]["machine"] == 1 and len(second["ranks"]) == 5
    again = benchmark("--parts", "ceilings", "--again")
    assert again["ceilings"]["product"]["machine"] == 2 and again["ranks"] == second["ranks"]


@pytest.mark.slow
def test_a_row_that_fails_is_recorded_and_the_others_are_measured(
    benchmark: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import gpu_networks

    parts = ("--parts", "ranks", "ceilings")
    measured = gpu_networks._matrix_ranks

    def exhausted(maps: torch.Tensor) -> torch.Tensor:
        if maps.shape[-1] == 28:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB.")
        return measured(maps)

    monkeypatch.setattr(gpu_networks, "_matrix_ranks", exhausted)
    first = benchmark(*parts, status=1)
    assert first["failed"] == {
        "ranks": {
            "4096 of 28x28": {
                "reason": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB.",
                "machine": 0,
            }
        }
    }
    assert len(first["ranks"]) == 4 and len(first["ceilings"]) == 2
    assert "1 rows failed: ranks: 4096 of 28x28" in capsys.readouterr().err
    assert "failed" in benchmark(*parts, status=1)  # tried again
    monkeypatch.setattr(gpu_networks, "_matrix_ranks", measured)
    last = benchmark(*parts)
    assert "failed" not in last and len(last["ranks"]) == 5
    assert last["ranks"]["8192 of 14x14"] == first["ranks"]["8192 of 14x14"]


def test_nothing_is_measured_after_the_gpu_has_failed(
    benchmark: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An illegal access makes every later call fail: the rows after it are no failures of their own."""
    import gpu_timing

    import gpu

    def broken(*_: Any) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(gpu, "_product", broken)
    monkeypatch.setattr(gpu_timing.Place, "recovers", lambda place: False)
    record = benchmark("--parts", "ceilings", "ranks", status=1)
    assert list(record["failed"]) == ["ceilings"] and not {"ceilings", "ranks"} & set(record)


def test_the_benchmark_trains_with_the_settings_of_the_trainer(benchmark: Callable[..., Any]) -> None:
    import gpu_training

    fast = made(configure(["trainer=gpu", "budget.flops=0.5"])["trainer"], "trainer")
    assert fast == gpu_training.FAST


@pytest.mark.slow
def test_every_criterion_is_measured(benchmark: Callable[..., Any]) -> None:
    import gpu_networks
    from gpu_timing import Place

    criteria = {
        type(method.criterion)
        for name in battery.METHODS
        if isinstance(method := battery.made(name), ImportanceMethod)
    }
    place = Place(torch.device("cpu"), quick=True)
    measured = {type(criterion) for criterion in gpu_networks.criteria(place).values()}
    assert criteria - measured == {CURL}  # a pass for each channel: minutes


def test_without_a_gpu_nothing_is_measured(
    benchmark: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 0
    assert capsys.readouterr().out == "No CUDA GPU: nothing is measured.\n"
