"""Where batches of images come from: tensors in memory, or files that are opened when their turn comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from prunelab.data.augment import ALONE, BatchTransform
from prunelab.data.decode import open_image
from prunelab.data.loader import Batch
from prunelab.data.order import Shard
from prunelab.data.tree import ImageTree
from prunelab.errors import UserError

ImageView = Callable[[Image.Image], Tensor]
"""Makes one opened image a uint8 tensor (C, H, W) of fixed size; may use torch's global generator."""


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
        # Copies from pageable memory are staged before the call returns, so they need not be waited for.
        images = self.images[torch.from_numpy(indices).to(device, non_blocking=True)]
        classes = torch.from_numpy(self.targets[indices]).to(device, non_blocking=True)
        return self.transform(images, augment, shard), classes

    def move_to(self, device: torch.device) -> None:
        """Hold the images on ``device``: from now on batches are made there. Raises UserError if they do not fit."""
        if device.type == "cuda" and self.images.device != device:
            _require_memory(self.images, device)
        self.images = self.images.to(device)


def _require_memory(images: Tensor, device: torch.device) -> None:
    needed, (free, _) = images.nbytes, torch.cuda.mem_get_info(device)
    if needed > free / 2:  # the other half is for the network and its activations
        raise UserError(
            f"trainer.images_on_device=true: the images take {needed / 2**30:.1f} GiB, but may take half of the "
            f"{free / 2**30:.1f} GiB that are free on {device}. Set trainer.images_on_device=false."
        )


class FileImages:
    """Image files that are decoded anew, by ``num_workers`` processes, each time they are read."""

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
        opened = (open_image(self.tree.path(int(index)), self.channels) for index in indices)
        if augment is None:
            images = [self.test_view(image) for image in opened]
        else:
            images = self._augmented(opened, augment.initial_seed(), shard)
        return self.transform(torch.stack(images), augment, shard), torch.from_numpy(self.targets[indices])

    def move_to(self, device: torch.device) -> None:
        """Does nothing: workers read the files on the CPU, and the trainer moves each batch."""

    def _augmented(self, opened: Iterable[Image.Image], seed: int, shard: Shard) -> list[Tensor]:
        """torchvision's transforms know the global generator only: it is lent to them, seeded for each image.

        Nothing is drawn from the batch's own generator, so that flips are those of images in memory.
        """
        images = []
        with torch.random.fork_rng(devices=[]):
            for number, image in enumerate(opened):
                place = shard.rank + number * shard.ranks  # in the batch of all processes
                torch.default_generator.manual_seed((seed ^ 1) + place)
                images.append(self.train_view(image))
        return images
