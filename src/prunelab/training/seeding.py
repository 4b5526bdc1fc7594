"""Random numbers that do not depend on whether a training was interrupted."""

from __future__ import annotations

import pytorch_lightning as pl
from pytorch_lightning import Callback, LightningModule, Trainer


class SeedEachEpoch(Callback):
    """Seeds all generators at the start of each epoch: a resumed training draws what an unbroken one would.

    The order and augmentation of prunelab's own data sets do not need it; dropout and foreign data do.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl.seed_everything((self.seed * 100_003 + trainer.current_epoch) % 2**32, workers=True, verbose=False)
