"""Conversion of batches of uint8 images to network input: random crop, random flip, normalisation.

Images are transformed on the device that holds them. Random numbers are always drawn on the CPU, so that a batch is the
same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from prunelab.data.order import Shard
from prunelab.errors import UserError

ALONE = Shard()


def random_crop(images: Tensor, padding: int, generator: torch.Generator, shard: Shard = ALONE) -> Tensor:
    """Images (N, C, H, W) with ``padding`` pixels of zeros around them, each cut to a random (H, W) window.

    They are the ``shard`` of this process in a batch: an image has the same window for every number of processes.
    """
    count, _, height, width = images.shape
    device = images.device
    padded = functional.pad(images, (padding,) * 4)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view (N, C, 2p+1, 2p+1, H, W)
    everywhere = (count * shard.ranks,)
    top = torch.randint(0, 2 * padding + 1, everywhere, generator=generator)
    left = torch.randint(0, 2 * padding + 1, everywhere, generator=generator)
    corners = torch.stack([top, left])[:, shard.rank :: shard.ranks].to(device, non_blocking=True)
    return windows[torch.arange(count, device=device), :, corners[0], corners[1]]


def random_flip(images: Tensor, generator: torch.Generator, shard: Shard = ALONE) -> Tensor:
    """Mirrors each of the images (N, C, H, W) left to right with probability 1/2; ``shard`` as in ``random_crop``."""
    flipped = torch.rand(len(images) * shard.ranks, generator=generator)[shard.rank :: shard.ranks] < 0.5
    flipped = flipped.to(images.device, non_blocking=True)
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True)
class BatchTransform:
    """Random crop and flip (training only), then ``(x / 255 - mean) / std`` per channel.

    Raises UserError for mean and std of different lengths and for a std that is not positive.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise UserError(
                f"data.mean has {len(self.mean)} value(s) and data.std {len(self.std)}: give one per channel."
            )
        if min(self.std) <= 0:
            raise UserError(f"data.std must be positive in every channel, not {list(self.std)}.")

    def __call__(self, images: Tensor, augment: torch.Generator | None, shard: Shard = ALONE) -> Tensor:
        """uint8 (N, C, H, W) -> normalised float32; ``augment=None`` is the test-time transform."""
        if augment is not None and self.crop_padding:
            images = random_crop(images, self.crop_padding, augment, shard)
        if augment is not None and self.flip:
            images = random_flip(images, augment, shard)
        return self.normalize(images)

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 (N, C, H, W) of about zero mean and unit variance."""
        mean, std = _per_channel(self.mean, images.device), _per_channel(self.std, images.device)
        return images.float().sub_(mean).div_(std)


@lru_cache(maxsize=16)
def _per_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``values`` times 255 as (C, 1, 1) on ``device``; cached, so that they are not copied for each batch."""
    return (torch.tensor(values)[:, None, None] * 255).to(device)
