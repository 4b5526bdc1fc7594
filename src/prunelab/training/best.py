"""The weights of the epoch with the highest accuracy on the validation images."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import safetensors.torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from prunelab.records.atomic import Write

METRIC = "val/top1"

log = logging.getLogger(__name__)


class KeepBest(Callback):
    """Stores the weights of the best epoch in ``folder`` while a ``Classifier`` is trained.

    The best epoch has the highest top-1 on the validation images; of equal ones it is the latest. Its number and the
    digest of its file are part of the checkpoints, so that a resumed training has the same best epoch. Only rank zero
    writes.

    Attributes:
        epoch: the best epoch, counted from 1; None before the first one.
        is_last: whether it is the last epoch of the training. Then there is no file.
    """

    def __init__(self, folder: Path, write: Write) -> None:
        self.folder = folder
        self.write = write
        self.epoch: int | None = None
        self.is_last = False
        self._top1 = -1.0
        self._digest = ""

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if METRIC not in trainer.callback_metrics:
            return
        top1 = float(trainer.callback_metrics[METRIC])
        if not top1 >= self._top1:
            return
        before, self.epoch, self._top1 = self.epoch, trainer.current_epoch + 1, top1
        self.is_last = self.epoch == trainer.max_epochs
        if not trainer.is_global_zero or self.is_last:
            return
        backbone = pl_module.backbone
        assert isinstance(backbone, nn.Module)
        content = safetensors.torch.save(
            {name: each.detach().cpu().clone().contiguous() for name, each in backbone.state_dict().items()}
        )
        self._digest = hashlib.sha256(content).hexdigest()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.write(self._file(self.epoch), content)
        # The file before belongs to the checkpoint from which an interrupted training continues.
        kept = {self._file(self.epoch), *([] if before is None else [self._file(before)])}
        for old in set(self.folder.glob("best-*.safetensors")) - kept:
            old.unlink()

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "is_last": self.is_last, "top1": self._top1, "digest": self._digest}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch, self.is_last = state_dict["epoch"], state_dict["is_last"]
        self._top1, self._digest = state_dict["top1"], state_dict["digest"]

    def weights(self) -> dict[str, Tensor] | None:
        """The weights of the best epoch, on rank zero. None, with a warning, if the file is missing or damaged."""
        assert self.epoch is not None and not self.is_last
        file = self._file(self.epoch)
        content = file.read_bytes() if file.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self._digest:
            log.warning(
                "The weights of the best epoch, %s, are missing or damaged; it is not evaluated.", file
            )
            return None
        return safetensors.torch.load(content)

    def _file(self, epoch: int) -> Path:
        return self.folder / f"best-{epoch:04}.safetensors"
