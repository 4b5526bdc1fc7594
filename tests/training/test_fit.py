"""A training that was interrupted goes on as if it had not been."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from prunelab.data import Digits
from prunelab.training import Machine, Training, fit
from prunelab.training.checkpoints import NEWEST, AtomicCheckpoints

TRAINING = Training(epochs=3, lr=0.05, warmup_epochs=1)


class Interrupted(Exception):
    """Stands for a crash."""


class Crash(Callback):
    """Something happens at the start of an epoch."""

    def __init__(self, epoch: int, what: Callable[[], None]) -> None:
        self.epoch = epoch
        self.what = what

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.what()


def crash() -> None:
    raise Interrupted


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10))


def train(network: nn.Module, folder: Path, *callbacks: Callback) -> float:
    return fit(
        network,
        Digits(),
        TRAINING,
        machine=Machine(accelerator="cpu"),
        seed=3,
        folder=folder,
        title="test",
        callbacks=callbacks,
    )


def test_a_resumed_training_equals_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, broken = small_network(), small_network()
    train(unbroken, tmp_path / "unbroken")
    with pytest.raises(Interrupted):
        train(broken, tmp_path / "broken", Crash(2, crash))
    resumed = small_network()
    assert train(resumed, tmp_path / "broken") > 0
    for name, tensor in unbroken.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first, second = small_network(), small_network()
    seconds = train(first, tmp_path)
    assert train(second, tmp_path) == pytest.approx(seconds, rel=0.5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_ctrl_c_arrives_and_can_be_pressed_again(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(small_network(), tmp_path, Crash(1, press_ctrl_c))


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = AtomicCheckpoints()
    checkpoints.save_checkpoint({"epoch": 1}, tmp_path / NEWEST)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoints.save_checkpoint({"epoch": 2}, tmp_path / NEWEST)
    assert checkpoints.load_checkpoint(tmp_path / NEWEST, weights_only=True) == {"epoch": 1}
    assert [file.name for file in tmp_path.iterdir()] == [NEWEST]
