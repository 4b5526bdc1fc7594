"""The digits of scikit-learn: 1,797 handwritten digits of 8x8 pixels, included in the package."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from prunelab.data.augment import BatchTransform
from prunelab.data.checks import channel_values, padding, whole_number
from prunelab.data.module import ImageData
from prunelab.data.sources import MemoryImages
from prunelab.data.split import Split, Splits, hold_out

SIDE = 8
LEVELS = 16  # grey values are 0 to 16
TEST_FRACTION = 0.2  # 360 images
TEST_SEED = 0  # fixed: the test images are the same for all seeds


class Digits(ImageData):
    """scikit-learn's ``load_digits``: 10 classes, one channel, nothing to download.

    The set has no separate test images: 360 are held out, stratified, the same for all seeds.

    Args:
        image_size: side in pixels; above 8 the images are enlarged bilinearly.
        mean, std: normalisation of grey values in [0, 1].
        crop_padding: pixels of zero padding for the random training crop; 0 switches it off. No flip.
        batch_size, eval_batch_size, val_fraction, train_fraction, seed, split_seed: see ImageData.
    """

    name = "digits"
    num_classes = 10

    def __init__(
        self,
        image_size: int = SIDE,
        mean: Sequence[float] = (0.3053,),
        std: Sequence[float] = (0.3760,),
        crop_padding: int = 1,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        val_fraction: float = 0.1,
        train_fraction: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        size = whole_number("image_size", image_size, at_least=SIDE)
        super().__init__(
            image_shape=(1, size, size),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            train_fraction=train_fraction,
            seed=seed,
            split_seed=split_seed,
        )
        self.transform = BatchTransform(
            mean=channel_values("mean", mean, channels=(1,)),
            std=channel_values("std", std, channels=(1,)),
            crop_padding=padding(crop_padding, size),
        )

    def read_splits(self) -> Splits:
        """Reads the images from scikit-learn, and holds out test and validation parts."""
        digits = load_digits()
        images = enlarge(torch.from_numpy(digits.images), self.image_shape[1])
        source = MemoryImages(images, digits.target.astype(np.int64), self.transform)
        training, test = hold_out(Split.whole(source), TEST_FRACTION, TEST_SEED)
        train, val = self.hold_out_validation(training)
        return Splits(train, val, test)


def enlarge(images: Tensor, size: int) -> Tensor:
    """Grey values 0..16 of shape (N, 8, 8) -> uint8 (N, 1, size, size)."""
    grey = images.float()[:, None] * (255 / LEVELS)
    if size != SIDE:
        grey = functional.interpolate(grey, size=(size, size), mode="bilinear", align_corners=False)
    return grey.round().to(torch.uint8)
