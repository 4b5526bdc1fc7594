"""Calibration images: a fixed number of images of a loader, shared among ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DistributedSampler

from prunelab.errors import UserError
from prunelab.methods.finite import is_finite
from prunelab.structure.network import on_device

Batch = tuple[Tensor, Any]
"""(images, targets)."""

Source = tuple[Tensor, Any, Any]
"""(images, targets, batch of the loader)."""

Unpack = Callable[[Any], Batch]

_IMAGE_KEYS = ("image", "images", "img", "pixel_values", "input", "inputs", "x", "data")
_TARGET_KEYS = ("label", "labels", "target", "targets", "y")


def unpack_batch(batch: Any) -> Batch:
    """(images, targets) of an ordinary batch; targets are None if it holds none.

    Accepts a tensor (images only), a tuple or list (images, targets, ...) and a mapping with customary
    keys ("image", "pixel_values", "x", ... and "label", "target", "y", ...).

    Raises:
        UserError: anything else.
    """
    images, targets = batch, None
    if isinstance(batch, tuple | list) and batch:
        images, targets = batch[0], batch[1] if len(batch) > 1 else None
    elif isinstance(batch, Mapping):
        images = next((batch[key] for key in _IMAGE_KEYS if key in batch), None)
        targets = next((batch[key] for key in _TARGET_KEYS if key in batch), None)
    if not isinstance(images, Tensor):
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        raise UserError(
            f"No images found in a batch of type {type(batch).__name__}{keys}: "
            "give unpack=, a function from your batch to (images, targets)."
        )
    return images, targets


@dataclass(frozen=True)
class Calibration:
    """A fixed number of images in batches; with several processes, every rank reads its share of the batches.

    Whole batches are assigned in turn (batch i to rank i modulo ranks), so that the statistics of all ranks together
    equal those of one process over the same loader.

    Args:
        loader: any iterable of batches, the same on every rank. A loader with a ``DistributedSampler`` already assigns
            shares and is read unchanged.
        images: their number over all ranks together; fewer if the loader has fewer.
        unpack: batch -> (images, targets).
        rank, ranks: number of this process, from 0, and number of processes.

    Example:
        >>> loader = [(torch.randn(8, 3, 4, 4), torch.zeros(8)) for _ in range(3)]
        >>> calibration = prunelab.Calibration(loader, images=12)
        >>> [len(images) for images, targets in calibration.batches(torch.device("cpu"))]
        [8, 4]
    """

    loader: Iterable[Any]
    images: int = 512
    unpack: Unpack = unpack_batch
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.images < 1:
            raise UserError(f"images={self.images}: scoring needs at least one calibration image.")

    def batches(self, device: torch.device) -> Iterator[Batch]:
        """The (images, targets) of this rank, on ``device``.

        Raises:
            UserError: images contain NaN or infinity.
        """
        for images, targets, _ in self.with_source(device):
            yield images, targets

    def with_source(self, device: torch.device) -> Iterator[Source]:
        """(images, targets, batch) of this rank, on ``device``; ``batch`` as the loader made it.

        Tensors of the last batch are cut to the number of images that remain.

        Raises:
            UserError: images contain NaN or infinity.
        """
        sampler = getattr(self.loader, "sampler", None)
        shared = isinstance(sampler, DistributedSampler)
        remaining = -(-self.images // self.ranks) if shared else self.images
        with _kept_generators(self.loader, sampler):
            for index, batch in enumerate(self.loader):
                images, _ = self.unpack(batch)
                if shared or index % self.ranks == self.rank:
                    used = _first(on_device(batch, device), len(images), remaining)
                    chosen, targets = self.unpack(used)
                    chosen = chosen[:remaining].to(
                        device
                    )  # batches of classes other than pytrees are not changed
                    targets = on_device(_first(targets, len(images), remaining), device)
                    if not is_finite(chosen):
                        raise UserError(
                            f"Images of calibration batch {index} contain NaN or infinity, so they give no scores. "
                            "Check the files and their normalisation."
                        )
                    yield chosen, targets, used
                remaining -= len(images)
                if remaining <= 0:
                    return


@contextmanager
def _kept_generators(*owners: Any) -> Iterator[None]:
    """Restores the generators with which a loader and its sampler shuffle."""
    generators = [getattr(owner, "generator", None) for owner in owners]
    states = [(found, found.get_state()) for found in generators if isinstance(found, torch.Generator)]
    try:
        yield
    finally:
        for generator, state in states:
            generator.set_state(state)


def _first(batch: Any, size: int, count: int) -> Any:
    """The first ``count`` images of a batch of ``size``, and what belongs to them."""
    if count >= size:
        return batch
    return tree_map(
        lambda leaf: leaf[:count] if isinstance(leaf, Tensor) and leaf.dim() and len(leaf) == size else leaf,
        batch,
    )
