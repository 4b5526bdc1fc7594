"""Tiny trees in the shape of the real data sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

PICTURES = 8


@pytest.fixture(scope="session")
def imagenet_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of ILSVRC-2012: 1000 classes, with two training images and one test image each (8 different
    JPEGs)."""
    root = tmp_path_factory.mktemp("imagenet")
    pictures = [root / f"{number}.JPEG" for number in range(PICTURES)]
    _fill(root, pictures, classes=1000, size=(48, 56), images=2)
    return root


@pytest.fixture(scope="session")
def cifar_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of 32x32 in ten classes."""
    root = tmp_path_factory.mktemp("cifar10")
    _fill(root, [root / f"{number}.png" for number in range(PICTURES)], classes=10, size=(32, 32), images=8)
    return root


def _fill(root: Path, pictures: list[Path], classes: int, size: tuple[int, int], images: int) -> None:
    """Training images and one test image of each class, all links to a few random pictures."""
    random = np.random.default_rng(0)
    for picture in pictures:
        Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)).save(picture)
    for label in range(classes):
        for part, count in (("train", images), ("val", 1)):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                picture = pictures[(3 * label + number) % PICTURES]
                os.link(picture, folder / f"{number}{picture.suffix}")
