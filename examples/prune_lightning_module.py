"""Prune your own LightningModule: the callback prunes it before the first step, and the fit is the recovery.

python examples/prune_lightning_module.py --epochs 10
"""

from __future__ import annotations

import argparse
import logging

import pytorch_lightning as pl
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split

import prunelab


class DigitClassifier(pl.LightningModule):
    """An ordinary LightningModule: it does not import prunelab."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            *self._layer(1, 32),
            *self._layer(32, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )

    @staticmethod
    def _layer(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
        return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 1, 8, 8) -> logits (N, 10)."""
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The mean cross entropy of a batch."""
        images, digits = batch
        return nn.functional.cross_entropy(self(images), digits)

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Log the accuracy."""
        images, digits = batch
        self.log("accuracy", (self(images).argmax(dim=1) == digits).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """SGD over the parameters of the pruned network."""
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def digits() -> tuple[DataLoader, DataLoader]:
    """scikit-learn's digits (1,797 grey images of 8x8 pixels): a loader for training and one for testing."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).unsqueeze(1) / 16
    dataset = TensorDataset(images, torch.tensor(data.target))
    train, test = random_split(dataset, [0.8, 0.2], generator=torch.Generator().manual_seed(0))
    return DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=256)


def trainer(epochs: int, *callbacks: pl.Callback) -> pl.Trainer:
    """A quiet trainer on the CPU."""
    return pl.Trainer(
        max_epochs=epochs,
        callbacks=list(callbacks),
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def main() -> None:
    """Train, prune to half the FLOPs with the Taylor criterion, fine-tune, and print both accuracies."""
    parser = argparse.ArgumentParser(description="Prune a LightningModule with a callback.")
    parser.add_argument("--epochs", type=int, default=10, help="of the training and of the recovery")
    epochs = parser.parse_args().epochs
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    pl.seed_everything(0)
    train, test = digits()

    module = DigitClassifier()
    trainer(epochs).fit(module, train)
    before = trainer(0).test(module, test, verbose=False)[0]["accuracy"]
    full_size = sum(parameter.numel() for parameter in module.parameters())

    method = prunelab.ImportancePruning(
        criterion=prunelab.Taylor(), budget=prunelab.Budget(flops=0.5), images=512
    )
    trainer(epochs, method).fit(module, train)
    after = trainer(0).test(module, test, verbose=False)[0]["accuracy"]
    size = sum(parameter.numel() for parameter in module.parameters())

    print(f"accuracy    {before:.1%} -> {after:.1%}")
    print(f"parameters  {full_size:,} -> {size:,}")


if __name__ == "__main__":
    main()
