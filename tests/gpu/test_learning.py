"""Every method that learns, on the GPU in mixed precision: it learns, decides, and the pruned network trains on."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from prunelab import experiment
from prunelab.cli.config import configure
from prunelab.methods import LearningMethod
from prunelab.steps.setup import made

CONF = Path(__file__).parents[2] / "conf/method"
FAST = ("trainer=gpu",)
HALF = ("trainer=gpu", "trainer.precision=16-mixed", "trainer.fused=false")
MODES = {
    "bf16": FAST,
    "fp16": HALF,
    "CUDA graphs": (*FAST, "trainer.compile=reduce-overhead"),
}


def learning_methods() -> list[str]:
    names = sorted(file.stem for file in CONF.glob("*.yaml"))
    configs = {name: configure(["budget.flops=0.5", f"method={name}"])["method"] for name in names}
    return [name for name in names if isinstance(made(configs[name], "method"), LearningMethod)]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.mark.parametrize("mode", ["bf16", "fp16"])
@pytest.mark.parametrize("name", learning_methods())
def test_a_method_learns_in_mixed_precision(name: str, mode: str, outputs: Path) -> None:
    record = run(outputs, f"method={name}", "method.epochs=3", *MODES[mode])
    assert record.pruned.flops <= 0.5 * record.baseline.flops
    assert record.pruned.top1 > 0.5
    assert record.plan.masked_vs_pruned < 1e-4


@pytest.mark.parametrize("name", ["slimming", "sfp", "ssl", "dmcp"])
def test_a_method_learns_with_cuda_graphs(name: str, outputs: Path) -> None:
    """They change gradients or weights between the replays; dmcp hooks in, and learns uncompiled."""
    record = run(outputs, f"method={name}", "method.epochs=3", *MODES["CUDA graphs"])
    assert record.pruned.flops <= 0.5 * record.baseline.flops
    assert record.pruned.top1 > 0.5


@pytest.mark.parametrize(
    ("name", "mode"),
    [*product(["l1", "hrank", "eagleeye", "thinet"], ["bf16", "fp16"]), ("l1", "CUDA graphs")],
)
def test_a_whole_run_on_the_gpu(name: str, mode: str, outputs: Path, device: torch.device) -> None:
    record = run(outputs, f"method={name}", *MODES[mode])
    assert bool(record.hardware["gpus"]) == (device.type == "cuda")
    assert record.pruned.top1 > 0.5
    assert set(record.pruned.latency_ms) == {1, 64}


@pytest.mark.parametrize("mode", MODES)
def test_the_full_network_teaches_the_pruned_one(mode: str, outputs: Path) -> None:
    record = run(outputs, "method=l1", "recipe.distillation=0.9", *MODES[mode])
    assert record.pruned.top1 > 0.5


def run(outputs: Path, *words: str) -> Any:
    small = (
        "budget.flops=0.5", "method=l1", "data=digits", "data.batch_size=50", "baseline.training.epochs=4",
        "recipe.training.epochs=4", f"outputs={outputs}", "study=gpu",
    )  # fmt: skip
    return experiment.run(configure([*small, *words])).record
