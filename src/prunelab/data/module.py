"""The base class of all data modules: it divides, orders and loads the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import pytorch_lightning as pl
import torch

from prunelab.data.augment import BatchTransform
from prunelab.data.checks import open_fraction, positive_fraction, seed_number, whole_number
from prunelab.data.loader import BatchLoader
from prunelab.data.order import BatchOrder, Shard, balanced_order
from prunelab.data.split import Split, Splits, hold_out, subset
from prunelab.records.input_format import InputFormat


class ImageData(pl.LightningDataModule, ABC):
    """Labelled images in three parts: training, validation (held out of the training images) and test.

    A batch is a pair: normalised float32 images (N, C, H, W) and int64 classes (N,). A subclass defines ``name``,
    ``num_classes`` and ``image_shape``, sets ``transform``, and reads its images in ``read_splits``. Constructors do
    no input or output; ``prepare_data`` downloads, ``setup`` reads, once.

    Args:
        image_shape: (C, H, W) of every image of a batch.
        batch_size: training images per batch and process.
        eval_batch_size: images per batch and process of the other loaders.
        val_fraction: fraction of the training images that is held out for validation, in (0, 1).
        train_fraction: fraction of the remaining training images that is used, in (0, 1]; every class keeps its share.
            Validation and test images are not affected.
        seed: of the order of training images, their augmentation, and the choice of calibration images.
        split_seed: of the held-out part and of the training images that are used; not ``seed``, so that runs with
            several seeds have the same split.

    Raises:
        UserError: if an argument is out of range.
    """

    name: str
    transform: BatchTransform

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int],
        batch_size: int,
        eval_batch_size: int,
        val_fraction: float,
        train_fraction: float = 1.0,
        seed: int,
        split_seed: int,
    ) -> None:
        super().__init__()
        self.image_shape = image_shape
        self.batch_size = whole_number("batch_size", batch_size, at_least=1)
        self.eval_batch_size = whole_number("eval_batch_size", eval_batch_size, at_least=1)
        self.val_fraction = open_fraction("val_fraction", val_fraction)
        self.train_fraction = positive_fraction("train_fraction", train_fraction)
        self.seed = seed_number("seed", seed)
        self.split_seed = seed_number("split_seed", split_seed)
        self._splits: Splits | None = None

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """The number of classes."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of each class, in the order of their numbers; the numbers themselves if they have no names."""
        return tuple(map(str, range(self.num_classes)))

    @property
    def resized(self) -> tuple[int, bool]:
        """(side, keep_aspect): how an image is resized for testing before its centre is cut; see InputFormat."""
        return min(self.image_shape[1:]), True

    @property
    def input_format(self) -> InputFormat:
        """The input format of a network that is trained with these images, and the names of its outputs."""
        side, keep_aspect = self.resized
        return InputFormat(
            self.image_shape,
            self.transform.mean,
            self.transform.std,
            side,
            keep_aspect,
            tuple(self.class_names),
        )

    @abstractmethod
    def read_splits(self) -> Splits:
        """Reads (or lists) all images; called once. Raises UserError if images are missing or unusable."""

    def setup(self, stage: str | None = None) -> None:
        """Reads the images on the first call, for all stages; later calls do nothing."""
        if self._splits is None:
            splits = self.read_splits()
            if self.train_fraction < 1:
                splits = replace(splits, train=subset(splits.train, self.train_fraction, self.split_seed))
            self._splits = splits

    def move_to(self, device: torch.device) -> None:
        """Move the images in memory to ``device``, where batches are then cropped, flipped and normalised.

        No value of a batch changes. Images that are read from files in each epoch are not moved. Raises UserError if
        the device has too little memory.
        """
        splits = self._loaded()
        for source in {
            id(part.source): part.source for part in (splits.train, splits.val, splits.test)
        }.values():
            source.move_to(device)

    @property
    def train(self) -> Split:
        """The training images, without those held out."""
        return self._loaded().train

    @property
    def val(self) -> Split:
        """The held-out images, used for decisions of methods and searches."""
        return self._loaded().val

    @property
    def test(self) -> Split:
        """The images of the final evaluation; they have no other use."""
        return self._loaded().test

    def train_dataloader(self) -> BatchLoader:
        """Augmented batches, reshuffled in each epoch; under DDP the share of this process."""
        order = BatchOrder(
            self.train.indices, self.batch_size, Shard.of_this_process(), shuffle_seed=self.seed
        )
        return BatchLoader(self.train.source, order, augment_seed=self.seed)

    def val_dataloader(self) -> BatchLoader:
        """The held-out images, each once, with the test-time transform; under DDP the share of this process."""
        return self._evaluation_loader(self.val)

    def test_dataloader(self) -> BatchLoader:
        """The test images, each once, with the test-time transform; under DDP the share of this process."""
        return self._evaluation_loader(self.test)

    def calibration_dataloader(self, images: int) -> BatchLoader:
        """Up to ``images`` training images (all if there are fewer) with the test-time transform, in a fixed order.

        ``seed`` selects them, balanced over the classes. They are the same on every process and machine: nothing is
        sharded. A smaller number selects the first images of a larger selection. Raises UserError if ``images`` is
        below 1.
        """
        return self._whole_loader(self.train, whole_number("calibration_images", images, 1, group="recipe"))

    def validation_dataloader(self, images: int) -> BatchLoader:
        """Up to ``images`` held-out images (all if there are fewer), for methods that compare networks.

        They are selected like calibration images and are the same on every process: nothing is sharded.
        """
        return self._whole_loader(self.val, images)

    def some_test_images(self, images: int) -> BatchLoader:
        """Up to ``images`` test images, balanced over the classes; the same on every process: nothing is sharded."""
        return self._whole_loader(self.test, images)

    def hold_out_validation(self, split: Split) -> tuple[Split, Split]:
        """(training, validation) parts of all training images."""
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
