"""Tiny trees in the shape of the real data sets."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PICTURES = 8


@pytest.fixture(scope="session")
def imagenet_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ILSVRC-2012 as to its folders: 1000 classes, of each two training images and one test image (8 JPEGs in all)."""
    root = tmp_path_factory.mktemp("imagenet")
    pictures = [root / f"{number}.JPEG" for number in range(PICTURES)]
    random = np.random.default_rng(0)
    for picture in pictures:
        Image.fromarray(random.integers(0, 256, (48, 56, 3), dtype=np.uint8)).save(picture, "JPEG")
    for label in range(1000):
        for part, count in (("train", 2), ("val", 1)):
            folder = root / part / f"n{label:08d}"
            folder.mkdir(parents=True)
            for number in range(count):
                os.link(pictures[(3 * label + number) % PICTURES], folder / f"{number}.JPEG")
    return root
