"""A loader that hands out whole batches of an image source, in the order that a BatchOrder lays down."""

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
        """How many processes should read ahead; 0 if reading is as quick as handing over."""

    def batch(self, indices: np.ndarray, augment: torch.Generator | None, shard: Shard) -> Batch:
        """Normalised float images (n, C, H, W) and their classes, int64 (n,).

        ``augment`` feeds the random training transform; None asks for the test-time transform. ``shard`` says which
        part of the batch of all processes these are: an image is augmented as if one process had the whole batch.
        Raises UserError if an image cannot be read.
        """

    def move_to(self, device: torch.device) -> None:
        """Hold images that are in memory on ``device``. Raises UserError if they do not fit."""


class BatchLoader:
    """An iterable over batches of images for a Lightning Trainer or a plain loop.

    Lightning announces each epoch through ``sampler.set_epoch``; a plain loop need not, because the loader
    counts its passes by itself. Order and augmentation follow from (seed, epoch, number of the batch, place in
    it) alone: neither the number of processes or workers nor other random draws change what an image looks like.

    It is no ``DataLoader``, so that Lightning leaves the order, which is sharded already, as it is.
    """

    batch_sampler = None  # Lightning reads it of everything that has a sampler

    def __init__(self, source: ImageSource, order: BatchOrder, augment_seed: int | None = None) -> None:
        self.source = source
        self.order = order
        self.augment_seed = augment_seed
        self.epoch = 0

    @property
    def sampler(self) -> BatchLoader:
        """Where Lightning looks for ``set_epoch``."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of ``epoch`` (counted from 0)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Batch]:
        # Runs when the first batch is asked for: Lightning makes the iterator before it sets the epoch.
        epoch, self.epoch = self.epoch, self.epoch + 1
        one_pass = _Pass(self.source, self.order.batches(epoch), self._random_key(epoch), self.order.shard)
        workers = self.source.num_workers
        for batch in _read_ahead(one_pass, workers) if workers else one_pass:
            if isinstance(batch, UserError):
                raise batch
            images, targets = batch
            yield images, targets  # a DataLoader makes lists of pairs

    def _random_key(self, epoch: int) -> tuple[int, ...] | None:
        if self.augment_seed is None:
            return None
        return (self.augment_seed, epoch, 0)  # 0: once the rank; runs that are recorded keep their images


class _Pass(Dataset):
    """One epoch; item ``k`` is its ``k``-th batch, so that a worker process makes whole batches."""

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
            return error  # not raised: a DataLoader would bury the message in the traceback of its worker

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
        generator=torch.Generator(),  # its own: the random numbers of the training are not drawn on
    )
