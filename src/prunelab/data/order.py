"""The images of each batch of each epoch on each process, as indices."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch.distributed

from prunelab.errors import UserError


def permutation(length: int, *key: int) -> np.ndarray:
    """A shuffled ``arange(length)``, the same for the same ``key`` on every machine and numpy version.

    The raw output of a bit generator is sorted: numpy guarantees that this output is stable between versions, but not
    the result of ``Generator.permutation``.
    """
    draws = np.random.PCG64(np.random.SeedSequence(key)).random_raw(length)
    return np.argsort(draws, kind="stable")


def balanced_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """A shuffled order of all positions in which every prefix is balanced over the classes.

    The first ``k`` positions contain each class ``k / classes`` times, rounded, until the class has no images left.
    ``targets`` is int64 of shape (N,), and so is the result.
    """
    shuffled = _Shuffled.of(targets, seed)
    return shuffled.positions[np.lexsort((shuffled.class_rank, shuffled.turn))]


def proportional_order(targets: np.ndarray, seed: int) -> np.ndarray:
    """A shuffled order of all positions in which every prefix has the proportions of the classes in the whole.

    The first ``k`` of N positions contain a class of size ``n`` about ``k n / N`` times. ``targets`` is int64 of shape
    (N,), and so is the result.
    """
    shuffled = _Shuffled.of(targets, seed)
    progress = (shuffled.turn + 0.5) / shuffled.class_size
    return shuffled.positions[np.lexsort((shuffled.class_rank, progress))]


@dataclass(frozen=True)
class _Shuffled:
    """All positions in random order, and for the image at each position its place among the images of its class
    (``turn``, from 0), the number of images of its class, and the rank of its class in a random order of the
    classes."""

    positions: np.ndarray
    turn: np.ndarray
    class_size: np.ndarray
    class_rank: np.ndarray

    @classmethod
    def of(cls, targets: np.ndarray, seed: int) -> _Shuffled:
        positions = permutation(len(targets), seed)
        classes, labels, sizes = np.unique(targets[positions], return_inverse=True, return_counts=True)
        by_class = np.argsort(labels, kind="stable")
        turn = np.empty(len(targets), dtype=np.int64)
        turn[by_class] = np.arange(len(targets)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        return cls(positions, turn, sizes[labels], permutation(len(classes), seed)[labels])


@dataclass(frozen=True)
class Shard:
    """The part of every epoch that one of several processes reads."""

    rank: int = 0
    ranks: int = 1

    @classmethod
    def of_this_process(cls) -> Shard:
        """The shard of this process in the running process group; everything without a process group."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())
        return cls()


@dataclass(frozen=True)
class BatchOrder:
    """Divides images into batches: all ranks get disjoint images and the same number of batches.

    ``shuffle_seed=None`` (evaluation): every epoch has the order of ``indices``, every image exactly once, in batches
    whose sizes differ by at most one and do not exceed ``batch_size`` (except that with several processes and a batch
    size of 1 a batch may contain two images, because every process needs at least one image).

    With a seed (training): reshuffled in each epoch by (seed, epoch), only full batches. Images that do not fill a
    batch are left out of that epoch.

    Raises UserError if there are fewer images than processes, or if there are fewer training images than one batch of
    all processes and their number is not a multiple of the number of processes (one process would train with all).
    """

    indices: np.ndarray
    batch_size: int
    shard: Shard = Shard()
    shuffle_seed: int | None = None

    def __post_init__(self) -> None:
        if len(self.indices) < self.shard.ranks:
            raise UserError(
                f"{len(self.indices)} image(s) are too few for {self.shard.ranks} processes. "
                "Use fewer devices (trainer.devices) or more images."
            )
        whole = self.batch_size * self.shard.ranks
        if (
            self.shuffle_seed is not None
            and len(self.indices) < whole
            and len(self.indices) % self.shard.ranks
        ):
            raise UserError(
                f"A batch of {len(self.indices)} training images, fewer than data.batch_size={whole}, cannot be "
                f"divided evenly among {self.shard.ranks} processes. Set data.batch_size to a multiple of "
                f"{self.shard.ranks} that is not larger than the number of images."
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
