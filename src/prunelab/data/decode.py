"""Decoding image files, one at a time or all of a data set."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
FILES_FOR_PROGRESS_BAR = 2_000
LISTED = 20
"""At most this many unreadable files are listed in one message."""


class UnreadableImage(Exception):
    """An image file that cannot be decoded, and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


def unreadable(errors: Sequence[UnreadableImage]) -> UserError:
    """One message about all files that cannot be decoded."""
    listed = [f"  {error}" for error in errors[:LISTED]]
    if len(errors) > LISTED:
        listed.append(f"  and {len(errors) - LISTED} more")
    lines = "\n".join(listed)
    return UserError(
        f"{len(errors)} image(s) cannot be read:\n{lines}\nCopy or unpack these files again, or move them out of the "
        "data set."
    )


def open_image(path: Path, channels: int) -> Image.Image:
    """The decoded image with 8 bits per channel, as RGB (``channels=3``) or grey (1).

    The 8 high bits of 16-bit grey images are kept, as Pillow does for 16-bit colour images. Raises UnreadableImage.
    """
    try:
        with Image.open(path) as image:
            mode = "RGB" if channels == 3 else "L"
            if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
                high_bits = (np.asarray(image) >> 8).astype(np.uint8)
                return Image.fromarray(high_bits).convert(mode)
            if image.mode[0] in "IF":  # Pillow would clip values above 255
                raise UnreadableImage(path, "it has 32 bits per channel; convert it to 8 or 16 bits")
            return image.convert(mode)
    # Pillow raises any of these for damaged files.
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableImage(path, f"{error or type(error).__name__}") from error


def fit_square(image: Image.Image, size: int) -> Tensor:
    """The central square of an image, resized with antialiasing if necessary; uint8 (C, size, size)."""
    if image.size != (size, size):
        image = ImageOps.fit(image, (size, size), method=Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def decode_all(trees: Mapping[str, ImageTree], size: int, channels: int) -> dict[str, Tensor]:
    """All images of each tree as ``fit_square`` returns them, uint8 (N, channels, size, size).

    Several threads decode, with a progress bar. Raises UserError that lists all unreadable files.
    """
    images = {
        name: torch.empty(len(tree), channels, size, size, dtype=torch.uint8) for name, tree in trees.items()
    }
    tasks = [(name, start) for name, tree in trees.items() for start in range(0, len(tree), FILES_PER_TASK)]

    def decode(task: tuple[str, int]) -> tuple[int, list[UnreadableImage]]:
        name, start = task
        stop = min(start + FILES_PER_TASK, len(trees[name]))
        errors = []
        for index in range(start, stop):
            try:
                images[name][index] = fit_square(open_image(trees[name].path(index), channels), size)
            except UnreadableImage as error:
                errors.append(error)
        return stop - start, errors

    total = sum(map(len, trees.values()))
    quiet = Shard.of_this_process().rank != 0 or total < FILES_FOR_PROGRESS_BAR
    errors: list[UnreadableImage] = []
    with Progress(disable=quiet) as progress, ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = progress.add_task("Decoding images", total=total)
        try:
            for done, found in pool.map(decode, tasks):
                progress.advance(bar, done)
                errors += found
        except BaseException:  # Ctrl-C: do not wait for the remaining files
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if errors:
        raise unreadable(errors)
    return images
