"""Every method of conf/method at every level: it removes something of that level, or raises an error."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from prunelab.cli.config import configure_part
from prunelab.errors import UserError
from prunelab.methods import LearningMethod, PruningCallback, PruningMethod
from prunelab.structure import LEVELS, PruningPlan, analyze

pytestmark = pytest.mark.slow

METHODS = sorted(file.stem for file in (Path(__file__).parents[3] / "conf" / "method").glob("*.yaml"))
WORDS = {
    "eagleeye": ("method.candidates=3", "method.tolerance=0.3", "method.draws=200"),
    "amc": ("method.episodes=2",),
    "abcpruner": ("method.training=null", "method.sources=2", "method.cycles=1"),
    "network_adjustment": ("method.training=null", "method.iterations=2", "method.repeats=1"),
}


class Module(pl.LightningModule):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


@cache
def settings(name: str) -> dict[str, Any]:
    found = configure_part("method", [f"method={name}", "budget.params=0.75", *WORDS.get(name, ())])
    return {key: value for key, value in found.items() if key != "module"}  # what to import, no setting


def plan_of(module: Module, method: PruningMethod, batches: Any) -> PruningPlan:
    """One step of learning, if the method learns; then pruning."""
    callback = PruningCallback(method, validation=batches)
    for _ in range(1 + isinstance(method, LearningMethod)):
        trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, DataLoader(batches, batch_size=None))
    assert callback.plan is not None
    return callback.plan


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", METHODS)
def test_a_level_is_pruned_alone_or_is_an_error(
    name: str, level: str, residual: nn.Module, batches: Any
) -> None:
    covered = instantiate(settings(name)).about.levels
    chosen = {**settings(name), "levels": [level]}
    if level not in covered:
        with pytest.raises(InstantiationException) as caught:
            instantiate(chosen)
        assert isinstance(caught.value.__cause__, UserError)
        assert f"is not defined for level {level}: take {level} out of levels" in str(caught.value.__cause__)
        return
    graph = analyze(copy.deepcopy(residual), batches[0][0][:1])
    method = instantiate(chosen)
    plan = plan_of(Module(residual.train()), method, batches)
    narrower = {group.level for group in graph.groups if len(plan.kept[group.name]) < group.size}
    dropped = {"block"} if plan.dropped_blocks else set()
    assert narrower | dropped == {level}
    assert graph.cost.params(plan) <= 0.75 * graph.cost.params()
