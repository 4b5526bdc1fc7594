"""Every method that learns works in mixed precision, where activations and codes have 16 bits and weights 32."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import battery

from prunelab.cli.config import configure
from prunelab.steps.setup import made
from prunelab.training import Machine, Training

pytestmark = pytest.mark.slow

LEARNING = [name for name in battery.METHODS if battery.learns(name)]


@pytest.mark.parametrize("name", LEARNING)
def test_a_method_learns_in_bfloat16(name: str, run: Any) -> None:
    record = run(f"method={name}", "trainer.precision=bf16-mixed", "fast_dev_run=1", "study=mixed").record
    assert record.pruned.flops <= 0.5 * record.baseline.flops
    assert record.plan.masked_vs_pruned < 1e-4


@dataclass(frozen=True)
class Half(Machine):
    """Training in float16 with a scaler of losses, also on a processor, where Lightning offers it as a plugin only."""

    def trainer(self, **more: Any) -> pl.Trainer:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
        plugins = [*more.pop("plugins", ()), MixedPrecision("16-mixed", "cpu", scaler)]
        return pl.Trainer(accelerator="cpu", plugins=plugins, **more)


@pytest.mark.parametrize("name", LEARNING)
def test_a_method_learns_in_float16_with_a_scaler(
    name: str, small: nn.Module, learn: Any, context: Any
) -> None:
    """Gradients overflow in the first steps, which the scaler skips while it lowers the scale."""
    more = {"warmup": 0.0} if name == "dmcp" else {}
    words = [
        "budget.flops=0.5",
        "data=digits",
        f"method={name}",
        *(f"method.{k}={v}" for k, v in more.items()),
    ]
    method = made(configure(words)["method"], "method")
    figures = learn(method, small, training=Training(epochs=2, lr=0.02), machine=Half())
    assert all(math.isfinite(value) for value in figures.values()), figures
    assert all(bool(tensor.isfinite().all()) for tensor in small.state_dict().values())
    found = context(method, small)
    plan = method.decide(found)
    assert found.graph.cost.flops(plan) <= 0.5 * found.graph.cost.flops()
