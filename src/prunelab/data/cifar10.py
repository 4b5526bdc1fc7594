"""CIFAR-10 (Krizhevsky 2009): 50,000 training and 10,000 test images of 32x32 in ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torchvision.datasets import CIFAR10

from prunelab.data.augment import BatchTransform
from prunelab.data.checks import channel_values, padding, switch
from prunelab.data.download import Archive
from prunelab.data.module import ImageData
from prunelab.data.sources import MemoryImages
from prunelab.data.split import Split, Splits

ARCHIVE = Archive(
    title="CIFAR-10",
    dataset=CIFAR10,
    folder="cifar-10-batches-py",
    address="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    by_hand="copy cifar-10-python.tar.gz to that folder, packed or unpacked",
    contents=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    packed={CIFAR10.filename: CIFAR10.tgz_md5},
    images=(50_000, 10_000),
)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Cifar10(ImageData):
    """CIFAR-10, held in memory.

    Args:
        root: folder that contains ``cifar-10-batches-py``, or into which it is downloaded.
        mean, std: normalisation per channel of values in [0, 1]; by default those of the training images.
        crop_padding: pixels of zero padding for the random training crop; 0 switches it off.
        flip: mirror training images at random.
        batch_size, eval_batch_size, val_fraction, train_fraction, seed, split_seed: see ImageData.
    """

    name = "cifar10"
    num_classes = 10
    class_names = CLASSES

    def __init__(
        self,
        root: str | Path = "data",
        mean: Sequence[float] = (0.4914, 0.4822, 0.4465),
        std: Sequence[float] = (0.2470, 0.2435, 0.2616),
        crop_padding: int = 4,
        flip: bool = True,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_fraction: float = 0.1,
        train_fraction: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            image_shape=(3, 32, 32),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            train_fraction=train_fraction,
            seed=seed,
            split_seed=split_seed,
        )
        self.root = Path(root).expanduser()
        self.transform = BatchTransform(
            mean=channel_values("mean", mean, channels=(3,)),
            std=channel_values("std", std, channels=(3,)),
            crop_padding=padding(crop_padding, 32),
            flip=switch("flip", flip),
        )

    def prepare_data(self) -> None:
        """Downloads 170 MB unless the files exist. Raises UserError if that is impossible."""
        ARCHIVE.download(self.root)

    def read_splits(self) -> Splits:
        """Reads all images into memory (180 MB)."""
        train, val = self.hold_out_validation(Split.whole(self._source(train=True)))
        return Splits(train, val, test=Split.whole(self._source(train=False)))

    def _source(self, train: bool) -> MemoryImages:
        dataset = ARCHIVE.read(self.root, train)
        images = torch.from_numpy(dataset.data).permute(0, 3, 1, 2).contiguous()
        return MemoryImages(images, np.asarray(dataset.targets, dtype=np.int64), self.transform)
