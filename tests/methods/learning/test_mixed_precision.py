"""Every method that learns does so in mixed precision, where activations and codes have 16 bits and weights 32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

from prunelab.cli.config import configure
from prunelab.methods import LearningMethod
from prunelab.steps.setup import made
from prunelab.training import Machine, Training

CONF = Path(__file__).parents[3] / "conf/method"


def learning_methods() -> dict[str, LearningMethod]:
    chosen = {
        file.stem: configure(["budget.flops=0.5", f"method={file.stem}"]) for file in CONF.glob("*.yaml")
    }
    methods = {name: made(config["method"], "method") for name, config in sorted(chosen.items())}
    return {name: method for name, method in methods.items() if isinstance(method, LearningMethod)}


@pytest.mark.slow
@pytest.mark.parametrize("name", learning_methods())
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


@pytest.mark.parametrize("name", learning_methods())
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
