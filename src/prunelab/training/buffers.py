"""Buffers that are the same in all processes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from prunelab.distributed.ranks import world


class SameBuffers(Callback):
    """Gives all processes the buffers of the first one before each validation and at the end of training.

    DDP keeps parameters alike, but lets each process gather the running statistics of batch normalisation over its own
    images, and makes them alike only in the next training step. What is validated, saved and pruned is one network.
    """

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _share(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        _share(pl_module)


@torch.no_grad()
def _share(module: LightningModule) -> None:
    if world()[1] == 1:
        return
    for buffer in module.buffers():
        shared = buffer.contiguous()  # one in channels-last order cannot be sent as it is
        dist.broadcast(shared, src=0)
        buffer.copy_(shared)
