"""A loader that yields whole batches of an image source in the order of a BatchOrder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from prunelab.data.order import BatchOrder, Shard
from prunelab.errors import UserError

Batch = tuple[Tensor, Tensor]


class ImageSource(Protocol):
    """Labelled images that can be read a batch at a time."""

    @property
    def targets(self) -> np.ndarray:
        """The class of each image, int64 of shape (N,)."""

    @property
    def num_workers(self) -> int:
        """The number of processes that read batches ahead; 0 for images in memory."""

    def batch(self, indices: np.ndarray, augment: torch.Generator | None, shard: Shard) -> Batch:
        """Normalised float images (n, C, H, W) and their classes, int64 (n,).

        ``augment`` is the generator of the random training transform; None selects the test-time transform. ``shard``
        is the part of the batch of all processes: an image is augmented as if one process had the whole batch. Raises
        UserError that lists the images of the batch that cannot be read.
        """

    def move_to(self, device: torch.device) -> None:
        """Move images in memory to ``device``. Raises UserError if they do not fit."""


class BatchLoader:
    """An iterable over batches of images for a Lightning Trainer or a plain loop.

    Lightning sets each epoch through ``sampler.set_epoch``; in a plain loop this is not necessary, because the loader
    counts its passes. Order and augmentation depend only on (seed, epoch, number of the batch, position in it), not on
    the number of processes or workers or on other random numbers.

    It is not a ``DataLoader``, so that Lightning does not shard the order again.
    """

    batch_sampler = None  # Lightning reads this attribute of every object that has a sampler

    def __init__(self, source: ImageSource, order: BatchOrder, augment_seed: int | None = None) -> None:
        self.source = source
        self.order = order
        self.augment_seed = augment_seed
        self.epoch = 0

    @property
    def sampler(self) -> BatchLoader:
        """The object whose ``set_epoch`` Lightning calls."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Makes ``epoch`` (counted from 0) the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        # A generator, because its body starts with the first batch: Lightning sets the epoch after it creates the
        # iterator.
        epoch, self.epoch = self.epoch, self.epoch + 1
        one_pass = _Pass(self.source, self.order.batches(epoch), self._random_key(epoch), self.order.shard)
        workers = self.source.num_workers
        for batch in _read_ahead(one_pass, workers) if workers else one_pass:
            if isinstance(batch, UserError):
                raise batch
            images, targets = batch
            yield images, targets  # a DataLoader converts tuples to lists

    def _random_key(self, epoch: int) -> tuple[int, ...] | None:
        if self.augment_seed is None:
            return None
        return (
            self.augment_seed,
            epoch,
            0,
        )  # 0 was the rank in earlier versions; it keeps the images of recorded runs reproducible


class _Pass(Dataset):
    """One epoch; item ``k`` is batch ``k``, so that a worker process makes whole batches."""

    def __init__(
        self,
        source: ImageSource,
        batches: Sequence[np.ndarray],
        random_key: tuple[int, ...] | None,
        shard: Shard,
    ) -> None:
        self.source = source
        self.batches = batches
        self.random_key = random_key
        self.shard = shard

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch | UserError]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Batch | UserError:
        try:
            return self.source.batch(self.batches[number], self._generator(number), self.shard)
        except UserError as error:
            return error  # not raised: a DataLoader would replace it by a message with the worker's traceback

    def _generator(self, number: int) -> torch.Generator | None:
        if self.random_key is None:
            return None
        seed = np.random.SeedSequence((*self.random_key, number)).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed))


def _read_ahead(one_pass: _Pass, num_workers: int) -> DataLoader:
    return DataLoader(
        one_pass,
        batch_size=None,
        num_workers=min(num_workers, len(one_pass)),
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # separate, so that the loader takes no random numbers from the training
    )
