"""Training on the GPU in every precision, memory order and mode of compilation, and across a change of device."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from prunelab.data import Digits
from prunelab.evaluation import accuracy
from prunelab.training import Machine, Training, fit

SETTINGS: dict[str, dict[str, Any]] = {
    "float32": {},
    "tf32": {"tf32": True},
    "bf16": {"precision": "bf16-mixed"},
    "bf16, channels last, fused": {"precision": "bf16-mixed", "channels_last": True, "fused": True},
    "fp16 with a scaler": {"precision": "16-mixed"},
    "fp16, channels last": {"precision": "16-mixed", "channels_last": True},
    "compiled": {"compile": True, "precision": "bf16-mixed"},
    "CUDA graphs, deterministic": {"compile": "reduce-overhead", "precision": "bf16-mixed", "channels_last": True},
    "CUDA graphs": {
        "compile": "reduce-overhead", "precision": "bf16-mixed", "channels_last": True, "fused": True,
        "deterministic": False,
    },
}  # fmt: skip
TRAINING = Training(epochs=3, lr=0.05, schedule="one_cycle")
GENTLE = Training(epochs=3, lr=0.002, momentum=0.0, schedule="constant")
"""Small, so that rounding differences do not grow and trainings on two devices can be compared."""


class Crashed(Exception):
    """Stands for a killed process."""


class Crash(pl.Callback):
    """Ends a fit at the beginning of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            raise Crashed


def digits(machine: Machine) -> Digits:
    data = Digits(batch_size=50)
    data.prepare_data()
    data.setup()
    if machine.images_on_device:
        data.move_to(machine.device)
    return data


def trained(
    network: nn.Module, machine: Machine, folder: Path, *callbacks: pl.Callback, training: Training = GENTLE
) -> Digits:
    data = digits(machine)
    fit(network, data, training, machine=machine, seed=0, folder=folder, title="test", callbacks=callbacks)
    return data


@pytest.mark.parametrize("name", SETTINGS)
def test_a_network_learns_digits(name: str, small: nn.Module, tmp_path: Path) -> None:
    machine = Machine(accelerator="gpu", images_on_device=True, **SETTINGS[name])
    machine.prepare_process()
    data = trained(small.train(), machine, tmp_path, training=TRAINING)
    assert all(parameter.dtype == torch.float32 for parameter in small.parameters())
    found = accuracy(small, data.test_dataloader(), 10, machine.device)
    assert found.top1 > 0.9


def test_mixed_precision_ends_near_float32(small: nn.Module, tmp_path: Path) -> None:
    ends = {}
    for name in ("float32", "bf16", "fp16 with a scaler"):
        network = copy.deepcopy(small).train()
        trained(network, Machine(accelerator="gpu", **SETTINGS[name]), tmp_path / name)
        ends[name] = torch.cat([parameter.detach().cpu().flatten() for parameter in network.parameters()])
    change = (ends["float32"] - torch.cat([p.detach().flatten() for p in small.parameters()])).norm()
    for name in ("bf16", "fp16 with a scaler"):
        assert (ends[name] - ends["float32"]).norm() < 0.1 * change, name


def test_the_gpu_trains_as_the_cpu_does(small: nn.Module, tmp_path: Path) -> None:
    here, there = copy.deepcopy(small).train(), copy.deepcopy(small).train()
    trained(here, Machine(accelerator="cpu"), tmp_path / "cpu")
    trained(there, Machine(accelerator="gpu", images_on_device=True), tmp_path / "gpu")
    _assert_close(here, there, small)


@pytest.mark.parametrize("settings", ["float32", "fast"])
@pytest.mark.parametrize(("first", "then"), [("cpu", "gpu"), ("gpu", "cpu")])
def test_a_training_goes_on_on_another_device(
    first: str, then: str, settings: str, small: nn.Module, tmp_path: Path
) -> None:
    """Also with the state of a fused optimizer, whose tensors are on the device of the training, and with AdamW."""
    unbroken, broken, resumed = (copy.deepcopy(small).train() for _ in range(3))
    fast: dict[str, Any] = {"channels_last": True, "fused": True} if settings == "fast" else {}
    training = replace(GENTLE, optimizer="adamw", lr=2e-4) if settings == "fast" else GENTLE
    trained(unbroken, Machine(accelerator=then, **fast), tmp_path / "unbroken", training=training)
    with pytest.raises(Crashed):
        machine = Machine(accelerator=first, **fast)
        trained(broken, machine, tmp_path / "broken", Crash(2), training=training)
    epochs: list[int] = []
    note = pl.callbacks.LambdaCallback(
        on_train_epoch_start=lambda trainer, module: epochs.append(trainer.current_epoch)
    )
    trained(resumed, Machine(accelerator=then, **fast), tmp_path / "broken", note, training=training)
    assert epochs == [2]
    _assert_close(unbroken, resumed, small)


def test_the_scale_of_float16_goes_on_after_a_crash(small: nn.Module, tmp_path: Path) -> None:
    """The scaler's state is in the checkpoint; its scale was 2^16 at the start."""
    scales: list[float] = []

    class Note(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            scales.append(trainer.precision_plugin.scaler.get_scale())

        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.precision_plugin.scaler.update(2.0**10)

    machine = Machine(accelerator="gpu", precision="16-mixed")
    with pytest.raises(Crashed):
        trained(copy.deepcopy(small).train(), machine, tmp_path, Note(), Crash(2))
    trained(small.train(), machine, tmp_path, Note())
    assert scales == [2.0**16, 2.0**10, 2.0**10, 2.0**10]


def _assert_close(one: nn.Module, other: nn.Module, start: nn.Module) -> None:
    """Two trainings of ``start`` differ by far less than they changed it."""
    flat = [
        torch.cat([p.detach().cpu().flatten() for p in each.parameters()]) for each in (one, other, start)
    ]
    assert (flat[0] - flat[1]).norm() < 0.02 * (flat[0] - flat[2]).norm()
