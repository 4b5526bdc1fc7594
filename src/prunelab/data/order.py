"""Which images make up each batch of each epoch, on each process: index arithmetic alone, no images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.distributed

from prunelab.errors import UserError


def permutation(length: int, *key: int) -> np.ndarray:
    """A shuffled ``arange(length)``, the same for the same ``key`` on every machine and numpy version.

    Raw generator output is sorted, because numpy keeps the streams of its bit generators stable,
    but not what ``Generator.permutation`` makes of them.
    """
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(draws, kind="stable")


def balanced_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """A shuffled order of all positions whose every beginning is as balanced over the classes as can be.

    The first ``k`` positions hold each class ``k / classes`` times, rounded, as long as the class lasts.
    ``targets`` is int64 of shape (N,), as is the result.
    """
    shuffled = permutation(len(targets), seed)
    classes, labels, sizes = np.unique(targets[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(labels, kind="stable")
    turn = np.empty(len(targets), dtype=np.int64)  # how many of the same class come before
    turn[by_class] = np.arange(len(targets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    class_order = permutation(len(classes), seed)
    return shuffled[np.lexsort((class_order[labels], turn))]


@dataclass(frozen=True)
class Shard:
    """The part of every epoch that one of several cooperating processes sees."""

    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_this_process(cls) -> Shard:
        """The shard of the running process group; everything if there is none."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls()


@dataclass(frozen=True)
class BatchOrder:
    """Divides images into batches so that all ranks see disjoint images in an equal number of batches.

    ``shuffle_seed=None`` (evaluation): the order of ``indices`` in every epoch, every image exactly once, in
    batches whose sizes differ by at most one and do not exceed ``batch_size`` (but for one case: with several
    processes and a batch size of 1 a batch may hold two images, for no process may be left without one).

    With a seed (training): reshuffled in each epoch by (seed, epoch), full batches only. What does not
    fill a batch is left out of this epoch alone.

    Raises UserError if there are fewer images than processes.
    """

    indices: np.ndarray
    batch_size: int
    shard: Shard = Shard()
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        if len(self.indices) < self.shard.ranks:
            raise UserError(
                f"{len(self.indices)} image(s) cannot be shared out among {self.shard.ranks} processes. "
                "Use fewer devices (trainer.devices) or more images."
            )

    def __len__(self) -> int:
        least_share = len(self.indices) // self.shard.ranks
        if self.shuffle_seed is not None:
            return max(1, least_share // self.batch_size)
        largest_share = math.ceil(len(self.indices) / self.shard.ranks)
        return min(math.ceil(largest_share / self.batch_size), least_share)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The indices of each batch of this rank, in order; ``len(self)`` arrays."""
        if self.shuffle_seed is None:
            return np.array_split(self._share_of(self.indices), len(self))
        shuffled = self.indices[permutation(len(self.indices), self.shuffle_seed, epoch)]
        size = min(self.batch_size, len(self.indices) // self.shard.ranks)
        return list(self._share_of(shuffled)[: len(self) * size].reshape(len(self), size))

    def _share_of(self, ordered: np.ndarray) -> np.ndarray:
        return ordered[self.shard.rank :: self.shard.ranks]
