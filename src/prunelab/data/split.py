"""Parts of a data set: holding out a part, and selecting a fraction of a part."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from prunelab.data.loader import ImageSource
from prunelab.data.order import proportional_order
from prunelab.errors import UserError


@dataclass(frozen=True)
class Split:
    """Some images of a source: those at ``indices`` (int64)."""

    source: ImageSource
    indices: np.ndarray

    @classmethod
    def whole(cls, source: ImageSource) -> Split:
        """All images of a source."""
        return cls(source, np.arange(len(source.targets)))

    @property
    def targets(self) -> np.ndarray:
        """The class of each image in this part, int64 (n,)."""
        return self.source.targets[self.indices]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; no image is in two of them."""

    train: Split
    val: Split
    test: Split


def hold_out(split: Split, fraction: float, seed: int, of_every_class: bool = True) -> tuple[Split, Split]:
    """Splits a part in two, (kept, held out), with the same proportions of the classes in both.

    The split depends only on ``seed`` and the classes.

    Args:
        of_every_class: whether each class must be in both parts. If there are too few images for this, True raises an
            error, False draws the held-out images at random from all.

    Raises:
        UserError: there are too few images.
    """
    targets = split.targets
    held_out = int(np.ceil(fraction * len(targets)))
    classes, sizes = np.unique(targets, return_counts=True)
    too_few = min(held_out, len(targets) - held_out) < len(classes) or sizes.min() < 2
    if too_few and of_every_class:
        raise UserError(
            f"Cannot hold {fraction:g} of {len(targets)} training images out for validation: both parts need images of "
            f"each of the {len(classes)} classes (the smallest class has {sizes.min()} image(s); {held_out} image(s) "
            "would be held out). Use more images, or another data.val_fraction."
        )
    strata = None if too_few else targets
    kept, held = train_test_split(split.indices, test_size=held_out, stratify=strata, random_state=seed)
    return Split(split.source, np.sort(kept)), Split(split.source, np.sort(held))


def subset(split: Split, fraction: float, seed: int) -> Split:
    """The given fraction of a part, with the same proportions of the classes.

    A smaller fraction gives a subset of a larger one. Raises UserError if a class would have no images.
    """
    number = round(fraction * len(split))
    chosen = proportional_order(split.targets, seed)[:number]
    classes = len(np.unique(split.targets))
    remaining = len(np.unique(split.targets[chosen]))
    if remaining < classes:
        raise UserError(
            f"data.train_fraction={fraction:g} selects {number} of {len(split)} training images, which leaves "
            f"{classes - remaining} of {classes} classes without images. Use a larger fraction."
        )
    return Split(split.source, np.sort(split.indices[chosen]))
