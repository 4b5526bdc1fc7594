"""Checkpoints of a training under way: whole files, tensors and plain numbers only."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from prunelab.records import write_atomically

NEWEST = "newest.ckpt"


class AtomicCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint so that a killed process or a full disk leaves the one before it intact.

    Lightning's own writer moves a temporary file from another file system, which can be cut short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        content = io.BytesIO()
        torch.save(checkpoint, content)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(Path(path), content.getvalue())


def keep_newest(folder: Path) -> ModelCheckpoint:
    """A callback that keeps the state after the last finished epoch in ``folder``/newest.ckpt."""
    return ModelCheckpoint(
        dirpath=folder,
        filename=Path(NEWEST).stem,
        save_top_k=1,
        every_n_epochs=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,
    )
