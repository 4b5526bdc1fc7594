"""A resumed training equals an uninterrupted one."""

from __future__ import annotations

import errno
import logging
import os
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback
from torch import nn

from prunelab.data import Digits
from prunelab.errors import UserError
from prunelab.records import write_atomically
from prunelab.training import Machine, Training, fit
from prunelab.training.checkpoints import CheckedCheckpoints, checkpoints, newest_sound

TRAINING = Training(epochs=3, lr=0.05, warmup_epochs=1)


class Interrupted(Exception):
    """Stands for a crash."""


class Crash(Callback):
    """Calls a function at the start of an epoch."""

    def __init__(self, epoch: int, what: Callable[[], None]) -> None:
        self.epoch = epoch
        self.what = what

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch == self.epoch:
            self.what()


class Epochs(Callback):
    """Records the epochs (from 0) that are started."""

    def __init__(self, begun: list[int]) -> None:
        self.begun = begun

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun.append(trainer.current_epoch)


def crash() -> None:
    raise Interrupted


def press_ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.5), nn.Linear(144, 10))


def train(network: nn.Module, folder: Path, *callbacks: Callback, training: Training = TRAINING) -> float:
    return fit(
        network,
        Digits(),
        training,
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
    io = CheckedCheckpoints(write_atomically)
    io.save_checkpoint({"epoch": 1}, tmp_path / "epoch-0001.ckpt")
    (first,) = tmp_path.iterdir()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        io.save_checkpoint({"epoch": 2}, tmp_path / "epoch-0002.ckpt")
    assert io.load_checkpoint(first) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [first]


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train(small_network(), tmp_path)
    assert [file.name[:10] for file in checkpoints(tmp_path)] == ["epoch-0003", "epoch-0002"]


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 1])
        + content[len(content) // 2 + 1 :]
    ),
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: b"no checkpoint",
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    network = small_network()
    train(network, tmp_path_factory.mktemp("unbroken"))
    return network.state_dict()


@pytest.mark.parametrize("damaged", [1, 2])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_not_used(
    damage: str,
    damaged: int,
    unbroken: dict[str, torch.Tensor],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(Interrupted):
        train(small_network(), tmp_path, Crash(2, crash))
    broken = checkpoints(tmp_path)[:damaged]
    for file in broken:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))

    begun: list[int] = []
    resumed = small_network()
    with caplog.at_level(logging.WARNING, "prunelab"):
        train(resumed, tmp_path, Epochs(begun))

    assert begun == list(range(2 - damaged, 3))
    for file in broken:
        assert f"The checkpoint {file} is damaged" in caplog.text
        assert file.with_name(f"{file.name}.damaged").is_file()
    assert all(torch.equal(tensor, resumed.state_dict()[name]) for name, tensor in unbroken.items())


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    """A malicious checkpoint with a correct digest."""
    folder, ran = tmp_path / "checkpoints", tmp_path / "ran"
    CheckedCheckpoints(write_atomically).save_checkpoint({"bomb": Bomb(ran)}, folder / "epoch-0001.ckpt")
    (file,) = checkpoints(folder)
    with pytest.raises(pickle.UnpicklingError):
        CheckedCheckpoints(write_atomically).load_checkpoint(file, weights_only=False)
    begun: list[int] = []
    train(small_network(), folder, Epochs(begun))
    assert begun == [0, 1, 2]
    assert not ran.exists()
    torch.load(file.with_name(f"{file.name}.damaged"), weights_only=False)
    assert ran.exists()


def test_a_training_that_diverges_fails_and_leaves_no_checkpoint_of_it(tmp_path: Path) -> None:
    network = small_network()
    diverging = Training(epochs=3, lr=1e30, schedule="constant")
    with pytest.raises(UserError, match="NaN or infinite after test, epoch 1"):
        train(network, tmp_path, training=diverging)
    assert newest_sound(tmp_path) is None


def test_weights_that_are_not_finite_at_the_end_are_errors(tmp_path: Path) -> None:
    """Checkpoints of a version that did not check its weights."""
    network = small_network()
    train(network, tmp_path)
    checkpoint = torch.load(checkpoints(tmp_path)[0], weights_only=True)
    checkpoint["state_dict"]["backbone.0.bias"][0] = float("nan")
    CheckedCheckpoints(write_atomically).save_checkpoint(checkpoint, tmp_path / "epoch-0004.ckpt")
    with pytest.raises(UserError, match=r"NaN or infinite after test: 0\.bias"):
        train(small_network(), tmp_path)


def test_checkpoints_are_written_without_a_message(tmp_path: Path) -> None:
    messages: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pytorch_lightning.trainer.connectors.checkpoint_connector")
    logger.addHandler(handler)
    try:
        train(small_network(), tmp_path, training=Training(epochs=1))
    finally:
        logger.removeHandler(handler)
    assert checkpoints(tmp_path) and messages == []
