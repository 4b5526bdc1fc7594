"""LearningMethod as a callback of a LightningModule that prunelab has never seen: one fit learns, the next prunes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from prunelab.errors import UserError
from prunelab.methods import (
    DMCP,
    TAS,
    VCNN,
    AutoSlim,
    Budget,
    L1Norm,
    LearningMethod,
    MetaPruning,
    PruningCallback,
    PruningContext,
)
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.structure import PruningPlan
from prunelab.training import Training

BATCHES = 3


class Unseen(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
        )

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.25)


class Diary(LearningMethod):
    """Records the calls of its hooks; prunes by l1 norm."""

    covers = ("filter", "stage")

    def __init__(self, **settings: Any) -> None:
        super().__init__(Budget(flops=0.5), **settings)
        self.entries: list[str] = []

    def prepare(self, context: PruningContext) -> None:
        self.entries.append("prepare")

    def before_first_step(self, context: PruningContext) -> None:
        self.entries.append("before_first_step")

    def before_step(self, context: PruningContext) -> None:
        assert all(parameter.grad is not None for parameter in context.model.parameters())
        self.entries.append("before_step")

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        assert {rates[parameter] for parameter in context.model.parameters()} == {0.25}
        self.entries.append("after_step")

    def after_epoch(self, context: PruningContext) -> None:
        self.entries.append("after_epoch")

    def watch(self, context: PruningContext) -> dict[str, float]:
        self.entries.append("watch")
        return {"pages": len(self.entries)}

    def finish(self, context: PruningContext) -> None:
        self.entries.append("finish")

    def decide(self, context: PruningContext) -> PruningPlan:
        self.entries.append("decide")
        return keep_best(context, L1Norm().score(context))


def loader() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8 * BATCHES, 2, 5, 5, generator=generator)
    return DataLoader(
        TensorDataset(images, torch.randint(3, (8 * BATCHES,), generator=generator)), batch_size=8
    )


def trainer(*callbacks: pl.Callback, **settings: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(callbacks=list(callbacks), accelerator="cpu", **{**quiet, "max_epochs": 2, **settings})


STEP = ["before_step", "after_step"]
EPOCH = [*STEP * BATCHES, "after_epoch", "watch"]


def test_the_first_fit_learns_with_the_full_network_and_the_second_prunes_it() -> None:
    module, method = Unseen(), Diary()
    callback = PruningCallback(method)
    learning = trainer(callback)
    learning.fit(module, loader())
    assert method.entries == ["prepare", "before_first_step", *EPOCH, *EPOCH, "finish"]
    assert module.net[0].weight.shape[0] == 8
    assert callback.plan is None
    assert learning.callback_metrics["learning/pages"] == 2 + 2 * len(EPOCH)

    method.entries.clear()
    trainer(callback).fit(module, loader())
    assert method.entries == ["decide"]
    assert module.net[0].weight.shape[0] < 8

    trainer(callback).fit(module, loader())  # and a third only trains
    assert method.entries == ["decide"]


def test_learning_that_ends_within_an_epoch_ends_properly() -> None:
    method = Diary()
    trainer(PruningCallback(method), max_epochs=-1, max_steps=2).fit(Unseen(), loader())
    assert method.entries == ["prepare", "before_first_step", *STEP * 2, "after_epoch", "watch", "finish"]


def test_accumulated_batches_are_one_step() -> None:
    method = Diary()
    trainer(PruningCallback(method), max_epochs=1, accumulate_grad_batches=2).fit(Unseen(), loader())
    assert method.entries == ["prepare", "before_first_step", *STEP * 2, "after_epoch", "watch", "finish"]


def test_an_error_leaves_an_ordinary_network_that_has_not_learned() -> None:
    class Fails(pl.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            raise RuntimeError("disk full")

    module, method = Unseen(), Diary()
    with pytest.raises(RuntimeError, match="disk full"):
        trainer(PruningCallback(method), Fails()).fit(module, loader())
    assert method.entries[-1] == "finish"
    assert method.learning is None
    method.entries.clear()
    trainer(PruningCallback(method)).fit(module, loader())
    assert method.entries[0] == "prepare"


def test_a_program_that_finds_the_plan_does_not_learn_again(tmp_path: Path) -> None:
    module, plan_file = Unseen(), tmp_path / "plan.json"
    callback = PruningCallback(Diary(), plan_file=plan_file)
    for _ in range(2):
        trainer(callback).fit(module, loader())
    restarted = Diary()
    again = Unseen()
    trainer(PruningCallback(restarted, plan_file=plan_file)).fit(again, loader())
    assert restarted.entries == []
    assert again.net[0].weight.shape == module.net[0].weight.shape


@pytest.mark.parametrize("eager", [True, False])
def test_a_network_is_not_compiled_while_a_method_looks_into_it(
    eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Compiled(Unseen):
        def configure_model(self) -> None:
            self.net._compiled_call_impl = self.called

        def called(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return self.net._call_impl(images)

    calls: list[int] = []
    monkeypatch.setattr(Diary, "eager", eager)
    method = Diary()
    trainer(PruningCallback(method), max_epochs=1).fit(Compiled(), loader())
    assert calls == ([] if eager else [8] * BATCHES)


def test_a_level_beyond_the_method_is_an_error() -> None:
    with pytest.raises(UserError, match=r"Diary is not defined for level block.*filter, stage"):
        Diary(levels=["filter", "block"])


def test_epochs_shorten_the_training_in_proportion() -> None:
    paper = Training(epochs=160, schedule="multistep", milestones=[80, 120], warmup_epochs=16)
    shorter = Diary(training=paper, epochs=10).training
    assert shorter is not None
    assert (shorter.epochs, shorter.milestones, shorter.warmup_epochs) == (10, (5, 7.5), 1)
    assert Diary(training=paper).training == paper


class OwnLoss(Diary):
    """Trains with the mean of the loss over two forward passes."""

    def training_loss(self, context: PruningContext, batch: Any, forward: Any) -> Tensor:
        images, targets = batch
        self.entries.append("training_loss")
        own = forward.own_loss()
        again = functional.cross_entropy(forward(images), targets)
        assert torch.equal(own, again)
        return 3 * (own + again) / 2


def test_a_method_may_compute_the_training_loss() -> None:
    module, plain, method = Unseen(), Unseen(), OwnLoss()
    learning = trainer(PruningCallback(method), max_epochs=1, max_steps=1, accumulate_grad_batches=2)
    learning.fit(module, loader())
    assert method.entries.count("training_loss") == 2
    assert learning.callback_metrics["train/loss"] > 0
    assert "training_step" not in vars(module)

    class Tripled(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            for parameter in pl_module.parameters():
                parameter.grad *= 3

    trainer(Tripled(), max_epochs=1, max_steps=1, accumulate_grad_batches=2).fit(plain, loader())
    for (name, found), expected in zip(module.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-6), name


def test_manual_optimization_cannot_be_given_another_loss() -> None:
    class Manual(Unseen):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

    with pytest.raises(UserError, match="needs automatic optimization"):
        trainer(PruningCallback(OwnLoss())).fit(Manual(), loader())


def test_a_method_that_needs_training_mode_is_an_error_in_evaluation_mode(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Diary, "training_mode", "network")
    module = Unseen()
    module.net.eval()
    with pytest.raises(UserError, match=r"evaluation mode.*call module\.train\(\)"):
        trainer(PruningCallback(Diary())).fit(module, loader())


class Normalised(Unseen):
    """The network is the module itself, which stays in training mode when its parts do not."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(3, nn.BatchNorm2d(8))
        self.net.insert(1, nn.BatchNorm2d(8))

    def forward(self, images: Tensor) -> Any:
        return self.net(images)


class Frozen(Normalised):
    def on_train_epoch_start(self) -> None:
        self.net[1].eval()


@pytest.mark.parametrize("method", [VCNN, AutoSlim, DMCP, MetaPruning, TAS])
def test_methods_that_learn_in_batch_normalisations_need_all_of_them_in_training_mode(method: Any) -> None:
    module, frozen = Normalised(), Frozen()
    module.net.eval()
    for each in (module, frozen):
        with pytest.raises(UserError, match=r"'net\.1' of (Normalised|Frozen) is in evaluation mode"):
            trainer(PruningCallback(method(Budget(flops=0.7)), validation=loader())).fit(each, loader())
