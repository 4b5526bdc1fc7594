"""Opening image files, one at a time or all at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import Progress
from torch import Tensor

from prunelab.data.order import Shard
from prunelab.data.tree import ImageTree
from prunelab.errors import UserError

FILES_PER_TASK = 128
FILES_WORTH_A_BAR = 2_000


def open_image(path: Path, channels: int) -> Image.Image:
    """The decoded image, as RGB (``channels=3``) or grey (1). Raises UserError if the file is unreadable."""
    try:
        with Image.open(path) as image:
            if image.mode[0] in "IF":  # Pillow would clip what exceeds 255
                raise UserError(f"{path} has more than 8 bits per channel. Convert it to an 8-bit image.")
            return image.convert("RGB" if channels == 3 else "L")
    # Pillow reports damaged files in all of these ways.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UserError(
            f"Cannot read the image {path}: {error}. The file is damaged, truncated or no image: "
            "replace it (unpack or copy the data set again) or remove it."
        ) from error


def fit_square(image: Image.Image, size: int) -> Tensor:
    """The central square of an image, resized with antialiasing if need be; uint8 (C, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def decode_all(tree: ImageTree, size: int, channels: int) -> Tensor:
    """All images of a tree as ``fit_square`` makes them, uint8 (N, channels, size, size).

    Several threads decode, and a bar shows how far they are. Raises UserError at the first file, in the
    order of the tree, that is unreadable.
    """
    images = torch.empty(len(tree), channels, size, size, dtype=torch.uint8)

    def decode(start: int) -> int:
        stop = min(start + FILES_PER_TASK, len(tree))
        for index in range(start, stop):
            images[index] = fit_square(open_image(tree.path(index), channels), size)
        return stop - start

    quiet = Shard.of_this_process().rank != 0 or len(tree) < FILES_WORTH_A_BAR
    with Progress(disable=quiet) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        task = progress.add_task(f"Decoding {tree.folder.name}/", total=len(tree))
        try:
            for done in pool.map(decode, range(0, len(tree), FILES_PER_TASK)):
                progress.advance(task, done)
        except BaseException:  # an unreadable file, or Ctrl-C: do not wait for all the others
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return images
