"""Parts of a data set, and how a part is held out of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import train_test_split

from prunelab.data.loader import ImageSource
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
        """The class of each image of this part, int64 (n,)."""
        return self.source.targets[self.indices]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set; no image is in two of them."""

    train: Split
    val: Split
    test: Split


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Divides a part in two, (kept, held out), with the same mixture of classes in both.

    The division depends on ``seed`` and the classes alone. Raises UserError if there are too few images.
    """
    targets = split.targets
    held_out = int(np.ceil(fraction * len(targets)))
    classes, sizes = np.unique(targets, return_counts=True)
    if min(held_out, len(targets) - held_out) < len(classes) or sizes.min() < 2:
        raise UserError(
            f"Cannot hold {fraction:g} of {len(targets)} training images out for validation: each of the "
            f"{len(classes)} classes must be in both parts (the smallest has {sizes.min()} image(s); "
            f"{held_out} would be held out). Use more images, or another data.val_fraction."
        )
    kept, held = train_test_split(split.indices, test_size=held_out, stratify=targets, random_state=seed)
    return Split(split.source, np.sort(kept)), Split(split.source, np.sort(held))
