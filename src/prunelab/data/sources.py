"""Sources of image batches: tensors in memory, or files that are decoded for each batch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunelab.data.augment import ALONE, BatchTransform
from prunelab.data.decode import UnreadableImage, open_image, unreadable
from prunelab.data.loader import Batch
from prunelab.data.order import Shard
from prunelab.data.tree import ImageTree
from prunelab.errors import UserError

ImageView = Callable[[Image.Image], Tensor]
"""Converts an opened image to a uint8 tensor (C, H, W) of fixed size; may use torch's global generator."""


class MemoryImages:
    """All images as one uint8 tensor (N, C, H, W), transformed a batch at a time on the device that holds them."""

    num_workers = 0

    def __init__(self, images: Tensor, targets: np.ndarray, transform: BatchTransform) -> None:
        self.images = images
        self.targets = targets
        self.transform = transform

    def batch(self, indices: np.ndarray, augment: torch.Generator | None, shard: Shard = ALONE) -> Batch:
        """The images and classes at ``indices``, transformed; see ImageSource."""
        device = self.images.device
        # Copies from pageable memory are staged before the call returns, so no synchronisation is necessary.
        images = self.images[torch.from_numpy(indices).to(device, non_blocking=True)]
        classes = torch.from_numpy(self.targets[indices]).to(device, non_blocking=True)
        return self.transform(images, augment, shard), classes

    def move_to(self, device: torch.device) -> None:
        """Move the images to ``device``, where batches are then made. Raises UserError if they do not fit."""
        if device.type == "cuda" and self.images.device != device:
            _require_memory(self.images, device)
        self.images = self.images.to(device)


def _require_memory(images: Tensor, device: torch.device) -> None:
    needed, (free, _) = images.nbytes, torch.cuda.mem_get_info(device)
    if needed > free / 2:  # the other half is for the network and its activations
        raise UserError(
            f"trainer.images_on_device=true: the images need {needed / 2**30:.1f} GiB, more than half of the "
            f"{free / 2**30:.1f} GiB that are free on {device}. Set trainer.images_on_device=false."
        )


class FileImages:
    """Image files that ``num_workers`` processes decode each time they are read."""

    def __init__(
        self,
        tree: ImageTree,
        transform: BatchTransform,
        train_view: ImageView,
        test_view: ImageView,
        num_workers: int,
    ) -> None:
        self.tree = tree
        self.targets = tree.targets
        self.transform = transform
        self.train_view = train_view
        self.test_view = test_view
        self.num_workers = num_workers
        self.channels = len(transform.mean)

    def batch(self, indices: np.ndarray, augment: torch.Generator | None, shard: Shard = ALONE) -> Batch:
        """The images and classes at ``indices``, read and transformed; see ImageSource."""
        images: list[Tensor] = []
        errors: list[UnreadableImage] = []
        with nullcontext() if augment is None else torch.random.fork_rng(devices=[]):
            for number, index in enumerate(indices):
                try:
                    image = open_image(self.tree.path(int(index)), self.channels)
                except UnreadableImage as error:
                    errors.append(error)
                    continue
                if augment is None:
                    images.append(self.test_view(image))
                else:
                    _seed_default_generator(augment, shard.rank + number * shard.ranks)
                    images.append(self.train_view(image))
        if errors:
            raise unreadable(errors)
        return self.transform(torch.stack(images), augment, shard), torch.from_numpy(self.targets[indices])

    def move_to(self, device: torch.device) -> None:
        """Does nothing: workers read the files on the CPU, and the trainer moves each batch."""


def _seed_default_generator(augment: torch.Generator, place: int) -> None:
    """Seed torch's global generator, the only one that torchvision's transforms use, for one image.

    ``place`` is the position of the image in the batch of all processes. Nothing is drawn from ``augment`` itself, so
    that images from files are flipped like images in memory.
    """
    torch.default_generator.manual_seed((augment.initial_seed() ^ 1) + place)
