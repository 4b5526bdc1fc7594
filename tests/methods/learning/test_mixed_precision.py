"""Every method that learns does so in mixed precision, where activations and codes are bfloat16 and weights float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from prunelab.cli.config import configure
from prunelab.methods import LearningMethod
from prunelab.steps.setup import made

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
