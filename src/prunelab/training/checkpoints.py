"""Checkpoints of a training: written atomically, named by their digest, with tensors and plain values only."""

from __future__ import annotations

import hashlib
import io
import logging
import re
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from prunelab.records.atomic import Write, set_aside

KEPT = 2
"""The newest checkpoint and the one before it, from which a training continues if the newest is damaged."""

_NAME = re.compile(r"epoch-(\d+)\.([0-9a-f]{64})\.ckpt")

log = logging.getLogger(__name__)


class CheckedCheckpoints(TorchCheckpointIO):
    """Lightning's checkpoint I/O with atomic writes and with the SHA-256 digest of the content in the file name.

    Lightning's own writer moves a temporary file from another file system, which can leave a part of a file. Reading
    is restricted to tensors and plain Python values (``weights_only``), so that a checkpoint cannot run code.
    """

    def __init__(self, write: Write) -> None:
        self._write = write

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write ``checkpoint`` to ``path``, the digest inserted before the suffix; removes the oldest checkpoints."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._write(path.with_name(f"{path.stem}.{hashlib.sha256(content).hexdigest()}.ckpt"), content)
        for old in checkpoints(path.parent)[KEPT:]:
            old.unlink()

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: Any = True
    ) -> dict[str, Any]:
        """Read a checkpoint; ``weights_only`` is ignored and always true."""
        return read(Path(path), map_location)


class KeepNewest(Checkpoint):
    """Saves a checkpoint in ``folder`` after every epoch. Lightning calls it after all other callbacks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        path = self.folder / f"epoch-{trainer.current_epoch + 1:04}.ckpt"
        trainer.save_checkpoint(
            path, weights_only=False
        )  # with the state of optimizers; the default logs a message


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, the newest first."""
    found = [(int(name[1]), file) for file in folder.glob("*") if (name := _NAME.fullmatch(file.name))]
    return [
        file for _, file in sorted(found, key=lambda each: (each[0], each[1].stat().st_mtime), reverse=True)
    ]


def newest_sound(folder: Path) -> Path | None:
    """The newest undamaged checkpoint in ``folder``, None if there is none; damaged ones are set aside with a warning.

    A checkpoint is damaged if its content has another digest than its name, or if it cannot be read.
    """
    for file in checkpoints(folder):
        fault = _fault(file)
        if fault is None:
            return file
        log.warning(
            "The checkpoint %s is damaged (%s). It was renamed to %s and is not used. The training continues from the "
            "checkpoint before it, or starts again if there is none.",
            file,
            fault,
            set_aside(file).name,
        )
    return None


def read(file: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The content of a checkpoint: tensors and plain Python values only, nothing else is unpickled."""
    content: dict[str, Any] = torch.load(file, map_location=map_location, weights_only=True)
    return content


def _fault(file: Path) -> str | None:
    """The defect of a checkpoint; None if it is sound."""
    name = _NAME.fullmatch(file.name)
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if name is None or digest != name[2]:
        return "its content does not have the digest in its name"
    try:
        read(file)
    except Exception as error:  # torch.load raises errors of many types for a file of another format
        return f"it cannot be read: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return None
