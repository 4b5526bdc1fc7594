"""Synchronisation of buffers between the processes of a distributed training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from pytorch_lightning import Callback, LightningModule, Trainer

from prunelab.distributed.ranks import world


class SameBuffers(Callback):
    """Copies the buffers of rank zero to all ranks before each validation and at the end of training.

    DDP keeps parameters equal on all ranks. The running statistics of batch normalisation are computed by each rank
    from its own images, and DDP synchronises them only in the next training step. With this callback all ranks
    validate, save and prune the same network.
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
        shared = buffer.contiguous()  # broadcast does not accept channels-last order
        dist.broadcast(shared, src=0)
        buffer.copy_(shared)
