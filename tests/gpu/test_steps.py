"""Steps with a teacher: distillation from a network, and from the widest network of a supernet into narrower ones."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import prunelab
from prunelab.data import Digits
from prunelab.methods import Budget, ImportanceMethod, L1Norm
from prunelab.methods.search.supernet import Supernet
from prunelab.training import Classifier, Distillation, Machine, Teacher, Training

EXAMPLE = torch.zeros(1, 1, 8, 8)
TRAINING = Training(epochs=3, lr=0.05, schedule="one_cycle")
SETTINGS: dict[str, dict[str, Any]] = {
    "bf16": {"precision": "bf16-mixed"},
    "bf16, channels last, fused": {"precision": "bf16-mixed", "channels_last": True, "fused": True},
    "fp16 with a scaler": {"precision": "16-mixed"},
    "fp16, channels last": {"precision": "16-mixed", "channels_last": True},
    "compiled": {"precision": "bf16-mixed", "channels_last": True, "compile": True},
    "CUDA graphs": {"precision": "bf16-mixed", "channels_last": True, "compile": "reduce-overhead"},
}


class Widths(Classifier):
    """The sandwich rule: the full network learns the labels, two narrower ones its outputs."""

    def __init__(self, network: nn.Module, machine: Machine) -> None:
        super().__init__(network, 10, TRAINING, machine.channels_last, False, machine.fused)
        method = ImportanceMethod(L1Norm(), Budget(flops=0.5))
        self.supernet = Supernet.by_importance(method.context(network, EXAMPLE))
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        random = self.supernet.random(np.random.default_rng(batch_index))
        narrower = [self.supernet.narrowest, random]
        loss = self.supernet.sandwich(self, batch, narrower, cross_entropy)
        self.losses.append(loss.detach())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing is logged."""


def trained(module: Classifier, machine: Machine, folder: Path) -> pl.Trainer:
    machine.prepare_process()
    data = Digits(batch_size=50)
    data.prepare_data()
    data.setup()
    data.move_to(machine.device)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = machine.trainer(max_epochs=3, default_root_dir=folder, enable_checkpointing=False, **quiet)
    trainer.fit(module, data)
    return trainer


@pytest.mark.parametrize("name", SETTINGS)
def test_a_pruned_network_learns_from_the_full_one(name: str, small: nn.Module, tmp_path: Path) -> None:
    machine = Machine(accelerator="gpu", **SETTINGS[name])
    taught = Classifier(small.train(), 10, TRAINING)
    trained(taught, Machine(accelerator="gpu"), tmp_path)
    student = copy.deepcopy(small)
    graph = prunelab.analyze(student, EXAMPLE)
    prunelab.apply(student, graph.plan(kept={group.name: range(0, group.size, 2) for group in graph.groups}))
    teacher = Teacher(small, Distillation(weight=1.0, temperature=4.0))  # no labels
    module = Classifier(
        student.train(), 10, TRAINING, machine.channels_last, machine.compile, machine.fused, teacher
    )
    trainer = trained(module, machine, tmp_path)
    assert trainer.callback_metrics["val/top1"] > 0.8
    assert all(parameter.dtype == torch.float32 for parameter in module.parameters())


@pytest.mark.parametrize("name", [name for name in SETTINGS if "compile" not in SETTINGS[name]])
def test_narrow_networks_of_a_supernet_learn(name: str, small: nn.Module, tmp_path: Path) -> None:
    machine = Machine(accelerator="gpu", **SETTINGS[name])
    module = Widths(small.train(), machine)
    trainer = trained(module, machine, tmp_path)
    assert trainer.callback_metrics["val/top1"] > 0.7
    assert torch.stack(module.losses).isfinite().all()
    assert all(bool(tensor.isfinite().all()) for tensor in small.state_dict().values())
