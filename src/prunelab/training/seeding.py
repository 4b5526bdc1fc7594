"""Seeds that make a resumed training draw the same random numbers as an uninterrupted one."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning import Callback, LightningModule, Trainer


class SeedEachEpoch(Callback):
    """Seeds all random generators at the start of each epoch with a function of ``seed`` and the epoch.

    The order and augmentation of prunelab's data sets do not depend on these generators; dropout and the data sets of
    users do.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl.seed_everything((self.seed * 100_003 + trainer.current_epoch) % 2**32, workers=True, verbose=False)
