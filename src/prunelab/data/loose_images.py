"""Image files of any folder as input batches of a network whose input format is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from prunelab.data.augment import BatchTransform
from prunelab.data.decode import UnreadableImage, open_image, unreadable
from prunelab.errors import UserError
from prunelab.records.input_format import InputFormat

TRAINING, HELD_OUT = "train", ("val", "test")


@dataclass(frozen=True)
class LooseImages:
    """Some image files, prepared as ``form`` describes.

    Attributes:
        files: their paths.
        form: size and normalisation.
        batch_size: images per batch.
    """

    files: tuple[Path, ...]
    form: InputFormat
    batch_size: int = 32

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Batches of images (N, C, H, W) and their classes: those whose folder has the name of a class, else None.

        Raises:
            UserError: lists the files of a batch that cannot be read.
        """
        transform, view = BatchTransform(self.form.mean, self.form.std), self._view()
        number = {name: place for place, name in enumerate(self.form.classes)}
        known = all(file.parent.name in number for file in self.files)
        for start in range(0, len(self.files), self.batch_size):
            part = self.files[start : start + self.batch_size]
            images, errors = [], []
            for file in part:
                try:
                    images.append(view(open_image(file, self.form.image_shape[0])))
                except UnreadableImage as error:
                    errors.append(error)
            if errors:
                raise unreadable(errors)
            classes = torch.tensor([number[file.parent.name] for file in part]) if known else None
            yield transform.normalize(torch.stack(images)), classes

    def _view(self) -> v2.Compose:
        side = self.form.resize
        size = side if self.form.keep_aspect else (side, side)
        return v2.Compose(
            [v2.Resize(size, antialias=True), v2.CenterCrop(self.form.image_shape[1:]), v2.PILToTensor()]
        )


def loose_images(
    folder: Path, form: InputFormat, training: int, held_out: int
) -> tuple[LooseImages, LooseImages]:
    """(images for calibration, images for checks) of a folder; no image is in both.

    If the folder has train/ and val/ or test/, they are these parts; otherwise every second image is in each part.

    Args:
        training, held_out: at most this many images, at even distances in the sorted list.

    Raises:
        UserError: the folder is not there, or holds too few images.
    """
    if not folder.is_dir():
        raise UserError(f"There is no folder {folder}. Give a folder with images: --images FOLDER.")
    tests = [folder / name for name in HELD_OUT if (folder / name).is_dir()]
    if (folder / TRAINING).is_dir() and tests:
        parts = _files(folder / TRAINING), _files(tests[0])
    else:
        files = _files(folder)
        parts = files[::2], files[1::2]
    if not all(parts):
        raise UserError(
            f"{folder} holds too few images: at least one for calibration and one for the check are needed."
        )
    first, second = (_some(files, most) for files, most in zip(parts, (training, held_out), strict=True))
    return LooseImages(first, form), LooseImages(second, form)


def _files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()
    )


def _some(files: Sequence[Path], most: int) -> tuple[Path, ...]:
    places = np.linspace(0, len(files) - 1, min(most, len(files))).round().astype(int)
    return tuple(files[place] for place in places)
