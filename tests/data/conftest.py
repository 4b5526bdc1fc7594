"""Small image folders, written by the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

WriteTree = Callable[..., Path]


@pytest.fixture
def write_tree(tmp_path: Path) -> WriteTree:
    """Writes ``<root>/<part>/<class>/<number>.png`` of random pixels; returns the root."""

    def write(
        parts: dict[str, int],
        classes: tuple[str, ...] = ("cat", "dog", "owl"),
        size: tuple[int, int] = (8, 8),
        root: Path = tmp_path / "tree",
    ) -> Path:
        pixels = np.random.default_rng(0)
        for part, images in parts.items():
            for label in classes:
                folder = root / part / label
                folder.mkdir(parents=True)
                for number in range(images):
                    values = pixels.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                    Image.fromarray(values).save(folder / f"{number:03}.png")
        return root

    return write
