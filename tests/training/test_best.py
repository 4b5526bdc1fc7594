"""The best epoch by accuracy on the validation images, and its weights."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import Tensor, nn

from prunelab.data import Digits
from prunelab.records import write_atomically
from prunelab.training import Machine, Training, fit
from prunelab.training.best import KeepBest

# The accuracies on the validation images that replace the real ones after each epoch.
PEAK = (0.2, 0.6, 0.6, 0.5)
RISING = (0.1, 0.2, 0.3, 0.4)
FIRST = (0.9, 0.1, 0.1, 0.1)


class Script(Callback):
    """Replaces the accuracy of each epoch, notes the weights, and stops before an epoch (from 0) if there is one."""

    def __init__(self, accuracies: tuple[float, ...], stop: int | None = None) -> None:
        self.accuracies = accuracies
        self.stop = stop
        self.weights: dict[int, dict[str, Tensor]] = {}

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.stop:
            raise InterruptedError

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.callback_metrics["val/top1"] = torch.tensor(self.accuracies[trainer.current_epoch])
        state = pl_module.backbone.state_dict()
        self.weights[trainer.current_epoch + 1] = {name: each.clone() for name, each in state.items()}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def train(folder: Path, script: Script) -> KeepBest:
    keeper = KeepBest(folder, write_atomically)
    fit(
        network(),
        Digits(),
        Training(epochs=len(script.accuracies), lr=0.05),
        machine=Machine(accelerator="cpu"),
        seed=3,
        folder=folder,
        title="test",
        callbacks=[script, keeper],
    )
    return keeper


def assert_equal(one: dict[str, Tensor] | None, other: dict[str, Tensor]) -> None:
    assert one is not None
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("accuracies", "best"), [(PEAK, 3), (FIRST, 1)])
def test_the_latest_of_the_best_epochs_is_kept(
    tmp_path: Path, accuracies: tuple[float, ...], best: int
) -> None:
    script = Script(accuracies)

    keeper = train(tmp_path, script)

    assert (keeper.epoch, keeper.is_last) == (best, False)
    assert_equal(keeper.weights(), script.weights[best])


def test_the_last_epoch_needs_no_file(tmp_path: Path) -> None:
    keeper = train(tmp_path, Script(RISING))

    assert (keeper.epoch, keeper.is_last) == (4, True)
    assert not list(tmp_path.glob("best-0004*"))


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_resumed_training_has_the_same_best_epoch(tmp_path: Path, stop: int) -> None:
    unbroken = Script(PEAK)
    train(tmp_path / "unbroken", unbroken)
    with pytest.raises(InterruptedError):
        train(tmp_path / "broken", Script(PEAK, stop))

    keeper = train(tmp_path / "broken", Script(PEAK))

    assert (keeper.epoch, keeper.is_last) == (3, False)
    assert_equal(keeper.weights(), unbroken.weights[3])


def test_an_epoch_that_was_lost_with_its_checkpoint_does_not_count(tmp_path: Path) -> None:
    """The process ends between the file of a better epoch and the checkpoint of that epoch."""
    script = Script((0.5, 0.9, 0.1, 0.1))
    train(tmp_path, script)
    for checkpoint in tmp_path.glob("epoch-*.ckpt"):
        checkpoint.unlink()
    with pytest.raises(InterruptedError):
        train(tmp_path, Script((0.5, 0.0, 0.0, 0.0), stop=1))

    keeper = train(tmp_path, Script((0.5, 0.4, 0.1, 0.1)))

    assert keeper.epoch == 1
    assert_equal(keeper.weights(), script.weights[1])


def test_a_damaged_file_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keeper = train(tmp_path, Script(PEAK))
    (file,) = tmp_path.glob("best-0003.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    with caplog.at_level(logging.WARNING, logger="prunelab"):
        assert keeper.weights() is None
    assert str(file) in caplog.text
