"""The classes of ILSVRC-2012, and folders that hold only some of them."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from prunelab.data.tree import ImageTree, some
from prunelab.errors import UserError

log = logging.getLogger(__name__)

CLASSES = 1000


def synsets() -> tuple[str, ...]:
    """The WordNet ids of the 1000 classes; the position of an id is the index of the class (timm's list)."""
    from timm.data import ImageNetInfo  # the import of timm takes seconds

    return tuple(ImageNetInfo().label_names())


def with_imagenet_indices(tree: ImageTree) -> ImageTree:
    """``tree`` with the class indices of ILSVRC-2012 instead of positions among its own folders.

    Args:
        tree: images whose class folders are named with WordNet ids; any number of the 1000 classes.

    Raises:
        UserError: the name of a folder is not one of the 1000 WordNet ids.

    Example:
        >>> from pathlib import Path
        >>> two = ("n01443537", "n02123045")  # goldfish, tabby cat
        >>> tree = ImageTree(Path("val"), two, np.array([b"n01443537/a.jpg", b"n02123045/b.jpg"]), np.arange(2))
        >>> with_imagenet_indices(tree).targets.tolist()
        [1, 281]
    """
    known = synsets()
    index = {name: number for number, name in enumerate(known)}
    if unknown := [name for name in tree.classes if name not in index]:
        raise UserError(
            f"{tree.folder}: {len(unknown)} class folder(s) have no name of a class of ImageNet: {some(unknown)}. If "
            f"only some of the {CLASSES} classes are there (data.num_classes={CLASSES}), names are WordNet "
            f"ids such as {known[0]}. For a network with its own classes set data.num_classes={len(tree.classes)}."
        )
    indices = np.array([index[name] for name in tree.classes])
    return replace(tree, classes=known, targets=indices[tree.targets])


def report_subset(training: ImageTree, testing: ImageTree) -> None:
    """Log how many of the 1000 classes have images for training and for testing."""
    log.info(
        "%s: %d of ImageNet's %d classes in train/ and %d in val/. Classes have ImageNet's own indices, and the "
        "network has %d outputs. For a network with fewer outputs set data.num_classes to the number of class folders.",
        training.folder.parent,
        len(np.unique(training.targets)),
        CLASSES,
        len(np.unique(testing.targets)),
        CLASSES,
    )
