"""Checkpoints of a module that PruningCallback pruned: resumed, tested and loaded by a process with a full network."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import lightning.pytorch as other
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

import prunelab
from prunelab.methods import (
    Budget,
    ImportanceMethod,
    ImportancePruning,
    L1Norm,
    PruningCallback,
    Random,
    Slimming,
)


class Body:
    """The common part of a LightningModule of both packages."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.save_hyperparameters()  # type: ignore[attr-defined]
        self.conv1, self.norm = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.norm2 = nn.Conv2d(width, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        hidden = functional.relu(self.norm2(self.conv2(functional.relu(self.norm(self.conv1(images))))))
        return self.head(hidden.mean(dim=(2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return functional.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.log("loss", functional.cross_entropy(self(batch[0]), batch[1]))  # type: ignore[attr-defined]

    predict_step = training_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)  # type: ignore[attr-defined]


class Module(Body, pl.LightningModule):
    pass


class OtherModule(Body, other.LightningModule):
    pass


def loader() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 2, 5, 5, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(3, (16,), generator=generator)), batch_size=8)


def trainer(callback: pl.Callback | None, epochs: int = 1, package: Any = pl) -> Any:
    return package.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=[] if callback is None else [callback], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip


def saved(path: Path, callback: PruningCallback, package: Any = pl, module: Any = None, **how: Any) -> Any:
    """A module that was pruned and trained for an epoch; its checkpoint is in ``path``."""
    module = Module() if module is None else module
    fitted = trainer(callback, package=package)
    fitted.fit(module, loader())
    fitted.save_checkpoint(path, **how)
    return module


@pytest.mark.parametrize("weights_only", [False, True])
@pytest.mark.parametrize("work", ["test", "predict"])
def test_a_pruned_checkpoint_is_tested_by_a_full_module(
    tmp_path: Path, work: str, weights_only: bool
) -> None:
    module = saved(
        tmp_path / "last.ckpt", ImportancePruning(L1Norm(), Budget(flops=0.5)), weights_only=weights_only
    )
    full = Module()
    again = trainer(ImportancePruning(L1Norm(), Budget(flops=0.5)))
    getattr(again, work)(full, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert all(torch.equal(full.state_dict()[name], tensor) for name, tensor in module.state_dict().items())


def test_a_resumed_fit_follows_the_plan_of_the_checkpoint_not_a_new_decision(tmp_path: Path) -> None:
    module = saved(
        tmp_path / "last.ckpt", PruningCallback(ImportanceMethod(Random(), Budget(flops=0.5), seed=1))
    )
    whole = trainer(PruningCallback(ImportanceMethod(Random(), Budget(flops=0.5), seed=1)), epochs=2)
    expected = Module()
    whole.fit(expected, loader())

    resumed, callback = Module(), PruningCallback(ImportanceMethod(Random(), Budget(flops=0.5), seed=2))
    trainer(callback, epochs=2).fit(resumed, loader(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.prunelab_plan.digest() == module.prunelab_plan.digest() == callback.plan.digest()
    assert all(torch.equal(resumed.state_dict()[name], each) for name, each in expected.state_dict().items())


def test_load_from_checkpoint(tmp_path: Path) -> None:
    module = saved(
        tmp_path / "last.ckpt", ImportancePruning(L1Norm(), Budget(flops=0.5)), module=Module(width=6)
    )
    again = prunelab.load_from_checkpoint(Module, tmp_path / "last.ckpt")
    assert type(again) is Module
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in module.state_dict().items())


def test_a_checkpoint_of_the_full_network_is_explained(tmp_path: Path) -> None:
    full, path = Module(), tmp_path / "full.ckpt"
    fitted = trainer(None)
    fitted.fit(full, loader())
    fitted.save_checkpoint(path)
    with pytest.raises(prunelab.UserError, match="contains the full network, but this one is pruned"):
        trainer(ImportancePruning(L1Norm(), Budget(flops=0.5)), epochs=2).fit(
            Module(), loader(), ckpt_path=path
        )


def test_a_learning_fit_resumes_after_it_was_pruned(tmp_path: Path) -> None:
    callback = PruningCallback(Slimming(Budget(flops=0.5)))
    module = Module()
    trainer(callback).fit(module, loader())  # learns
    saved(tmp_path / "last.ckpt", callback, module=module)  # prunes and trains
    resumed = Module()
    trainer(PruningCallback(Slimming(Budget(flops=0.5))), epochs=2).fit(
        resumed, loader(), ckpt_path=tmp_path / "last.ckpt"
    )
    assert resumed.prunelab_plan.digest() == module.prunelab_plan.digest()
    assert resumed.conv1.weight.shape == module.conv1.weight.shape


@pytest.mark.parametrize(
    "method", [ImportanceMethod(L1Norm(), Budget(flops=0.5)), Slimming(Budget(flops=0.5))]
)
def test_lightning_pytorch_is_treated_like_pytorch_lightning(tmp_path: Path, method: Any) -> None:
    modules = []
    for package, kind in ((pl, Module), (other, OtherModule)):
        module, callback = kind(), PruningCallback(method)
        for _ in range(2):  # the first fit of a learning method only learns
            trainer(callback, package=package).fit(module, loader())
        modules.append(module)
    one, two = (each.state_dict() for each in modules)
    assert one["conv1.weight"].shape[0] < 8
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_pruned_module_can_be_copied_and_pickled() -> None:
    module = Module()
    trainer(ImportancePruning(L1Norm(), Budget(flops=0.5))).fit(module, loader())
    module.trainer = None
    again, copied = pickle.loads(pickle.dumps(module)), copy.deepcopy(module)
    for each in (again, copied):
        checkpoint: dict[str, Any] = {}
        each.on_save_checkpoint(checkpoint)
        assert checkpoint["prunelab_plan"] == module.prunelab_plan.to_json()
