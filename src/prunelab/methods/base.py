"""PruningMethod: a Lightning callback that decides a plan and applies it before training starts."""

from __future__ import annotations

import os
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods.budget import Budget
from prunelab.methods.calibration import Calibration, Unpack, unpack_batch
from prunelab.methods.context import Loss, PruningContext
from prunelab.methods.host import calibration_loader, example_images, find_network, refuse_spawn
from prunelab.methods.ladders import Allocation, check_levels
from prunelab.methods.ranks import gather, together, world
from prunelab.methods.steps import allowed_cost, cost_function
from prunelab.structure import ChannelGraph, PruningPlan, analyze, apply


class PruningMethod(pl.Callback, ABC):
    """Prunes a network once, in ``setup`` of the first fit: before DDP wraps it and before optimizers are made.

    A subclass says in ``decide`` what to keep. Works with any LightningModule::

        trainer = pl.Trainer(callbacks=[ImportancePruning(L1Norm(), Budget(flops=0.5))])
        trainer.fit(module, datamodule)  # pruned before the first step, then trained on

    Args:
        budget: how much to keep.
        levels: what may be removed: any of "filter", "stage", "block".
        allocation, normalisation, floor, divisor: how the budget is spread, see ``Allocation``.
        images: how many calibration images to look at, on all ranks together.
        network: name of the submodule to prune. By default the LightningModule itself if it has a ``forward`` of its
            own, else its only child with parameters.
        plan_file: if this file exists the plan is read from it (a run is resumed), else it is written there.
        example_input: what one forward pass of the network takes. By default the module's ``example_input_array``,
            else an image of the calibration loader.
        calibration: batches to look at, the same on every rank. By default those of the data module's
            ``calibration_dataloader(images)`` if it has one, else of the train dataloader.
        unpack: batch -> (images, targets); by default understands tensors, tuples, lists and dicts.
        loss: (outputs, targets) -> mean loss; by default cross entropy.
        seed: of everything random.

    Attributes:
        plan: what was decided; None before ``setup``.
    """

    plan: PruningPlan | None

    def __init__(
        self,
        budget: Budget,
        levels: Collection[str] = ("filter", "stage"),
        allocation: str = "global",
        normalisation: str = "mean",
        floor: float = 0.1,
        divisor: int = 1,
        images: int = 512,
        network: str | None = None,
        plan_file: str | Path | None = None,
        example_input: Any = None,
        calibration: Iterable[Any] | None = None,
        unpack: Unpack = unpack_batch,
        loss: Loss = functional.cross_entropy,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.budget = budget
        self.levels = check_levels(levels)
        self.allocation = Allocation(allocation, normalisation, floor, divisor)  # type: ignore[arg-type]
        self.images = images
        self.network = network
        self.plan_file = None if plan_file is None else Path(plan_file)
        self.example_input = example_input
        self.calibration = calibration
        self.unpack = unpack
        self.loss = loss
        self.seed = seed
        self.plan = None
        self._pruned: weakref.ref[nn.Module] | None = None

    @abstractmethod
    def decide(self, context: PruningContext) -> PruningPlan:
        """What to keep of ``context.model``; leaves no trace in it.

        Raises:
            UserError: the budget cannot be reached, or the network does not suit the method.
        """
