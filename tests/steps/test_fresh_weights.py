"""recipe.weights=fresh: the architecture of the pruned network is kept, its weights are not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from prunelab.cli.config import configure
from prunelab.experiment import run
from prunelab.steps import phase
from prunelab.steps.setup import Setup

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("recipe", ["one_shot", "iterative", "front_to_back"])
def test_the_last_round_trains_from_scratch(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {
        "iterative": ["recipe.number=2", "recipe.round_training.epochs=1"],
        "front_to_back": ["recipe.parts=2", "recipe.round_training.epochs=1"],
    }.get(recipe, [])
    config = configure([
        "method=l1", "budget.flops=0.5", "budget.allocation=uniform", "levels=[filter]", "trainer=cpu",
        f"recipe={recipe}", "recipe.weights=fresh", "recipe.training.epochs=1", "recipe.calibration_images=64",
        "baseline.training.epochs=1", "study=tests", f"outputs={tmp_path}", *words,
    ])  # fmt: skip
    trained: list[dict[str, torch.Tensor]] = []
    fit = phase.fit

    def observed(network: nn.Module, *arguments: Any, **more: Any) -> float:
        trained.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        return fit(network, *arguments, **more)

    monkeypatch.setattr(phase, "fit", observed)
    outcome = run(config)

    *earlier, last = trained
    torch.manual_seed(config["seed"])
    initial = Setup.of(config).task.network().state_dict()
    assert len(earlier) == (0 if recipe == "one_shot" else 1)
    assert all(each["bn1.num_batches_tracked"] > 0 for each in earlier), "earlier rounds inherit weights"
    assert last["bn1.num_batches_tracked"] == 0
    assert not torch.equal(last["conv1.weight"], initial["conv1.weight"]), "not the baseline's"
    assert outcome.record.pruned.flops <= 0.5 * outcome.record.baseline.flops
