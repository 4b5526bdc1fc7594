"""The base of all data modules: what they share is how the parts are divided, ordered and loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod

import pytorch_lightning as pl
import torch

from prunelab.data.checks import open_fraction, whole_number
from prunelab.data.loader import BatchLoader
from prunelab.data.order import BatchOrder, Shard, balanced_order
from prunelab.data.split import Split, Splits, hold_out
from prunelab.errors import UserError


class ImageData(pl.LightningDataModule, ABC):
    """Labelled images in three parts: training, validation (held out of the training images) and test.

    A batch is a pair: normalised float32 images (N, C, H, W) and int64 classes (N,). A subclass says what it
    is (``name``, ``num_classes``, ``image_shape``), and reads its images in ``read_splits``. Constructors do
    no input or output; ``prepare_data`` downloads, ``setup`` reads, once.

    Args:
        image_shape: (C, H, W) of every image of a batch.
        batch_size: training images per batch and process.
        eval_batch_size: images per batch and process of the other loaders.
        val_fraction: part of the training images that is held out for validation, in (0, 1).
        seed: of the order of training images, their augmentation, and the choice of calibration images.
        split_seed: of the held-out part; not ``seed``, so that runs of several seeds share one division.

    Raises:
        UserError: if an argument is out of range.
    """

    name: str

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.batch_size = whole_number("batch_size", batch_size, at_least=1)
        self.eval_batch_size = whole_number("eval_batch_size", eval_batch_size, at_least=1)
        self.val_fraction = open_fraction("val_fraction", val_fraction)
        self.seed = whole_number("seed", seed, at_least=0)
        self.split_seed = whole_number("split_seed", split_seed, at_least=0)
        self._splits: Splits | None = None

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """How many classes the images belong to."""

    @abstractmethod
    def read_splits(self) -> Splits:
        """Reads (or lists) all images; called once. Raises UserError if they are not as they should be."""

    def setup(self, stage: str | None = None) -> None:
        """Reads the images on the first call, for all stages; later calls do nothing."""
        if self._splits is None:
            self._splits = self.read_splits()

    def move_to(self, device: torch.device) -> None:
        """Hold the images that are in memory on ``device``, where batches are then cut, mirrored and normalised.

        Changes no value of a batch. Images that are read from files in each epoch stay where they are. Raises UserError
        if the device has too little memory.
        """
        splits = self._loaded()
        for source in {
            id(part.source): part.source for part in (splits.train, splits.val, splits.test)
        }.values():
            source.move_to(device)

    @property
    def train(self) -> Split:
        """The images to train with, without those held out."""
        return self._loaded().train

    @property
    def val(self) -> Split:
        """The images held out of training, for every decision that a method or a search takes."""
        return self._loaded().val

    @property
    def test(self) -> Split:
        """The images that only the final evaluation sees."""
        return self._loaded().test

    def train_dataloader(self) -> BatchLoader:
        """Augmented batches, reshuffled in each epoch; this process's share of them under DDP."""
        order = BatchOrder(
            self.train.indices, self.batch_size, Shard.of_this_process(), shuffle_seed=self.seed
        )
        return BatchLoader(self.train.source, order, augment_seed=self.seed)

    def val_dataloader(self) -> BatchLoader:
        """The held-out images, each once, with the test-time transform; this process's share under DDP."""
        return self._evaluation_loader(self.val)

    def test_dataloader(self) -> BatchLoader:
        """The test images, each once, with the test-time transform; this process's share under DDP."""
        return self._evaluation_loader(self.test)

    def calibration_dataloader(self, images: int) -> BatchLoader:
        """``images`` training images with the test-time transform, in an order that never changes.

        They are chosen by ``seed``, balanced over the classes as far as these last, and are the same on every
        process and machine: nothing is sharded. A smaller number gives the beginning of a larger one.
        Raises UserError unless there are so many training images.
        """
        if not 1 <= images <= len(self.train):
            raise UserError(
                f"{images} calibration images were asked for, but the training part of {self.name} has "
                f"{len(self.train)}. Ask for 1 to {len(self.train)}: recipe.calibration_images={len(self.train)}."
            )
        return self._whole_loader(self.train, images)

    def validation_dataloader(self, images: int) -> BatchLoader:
        """``images`` of the held-out images, or all if there are fewer, for methods that compare networks.

        Chosen like calibration images, and like them the same on every process: nothing is sharded.
        """
        return self._whole_loader(self.val, images)

    def hold_out_validation(self, split: Split) -> tuple[Split, Split]:
        """(training, validation) parts of all images that may be trained with."""
        return hold_out(split, self.val_fraction, self.split_seed)

    def _whole_loader(self, split: Split, images: int) -> BatchLoader:
        chosen = split.indices[balanced_order(split.targets, self.seed)[:images]]
        return BatchLoader(split.source, BatchOrder(chosen, self.eval_batch_size))

    def _evaluation_loader(self, split: Split) -> BatchLoader:
        order = BatchOrder(split.indices, self.eval_batch_size, Shard.of_this_process())
        return BatchLoader(split.source, order)

    def _loaded(self) -> Splits:
        if self._splits is None:
            raise RuntimeError(
                f"{type(self).__name__} has no images yet: call prepare_data() and setup() first."
            )
        return self._splits
