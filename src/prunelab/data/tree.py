"""Folders of images, one folder per class: their content and their defects."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from prunelab.errors import UserError

LITTER = frozenset({"Thumbs.db", "desktop.ini"})
"""Files written by file managers; ignored like hidden files."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImageTree:
    """The image files of ``folder/<class>/...``, sorted by class and name.

    File names are relative to ``folder`` and stored in one array of bytes. A million Python strings would be copied
    page by page into every worker process, because reading them changes their reference counts.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    targets: np.ndarray  # int64 (N,), positions in classes

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """The path of the image with this index."""
        return self.folder / os.fsdecode(self.names[index])

    def fingerprint(self) -> str:
        """A digest of the names, sizes and modification times of all files."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            status = self.path(index).stat()
            digest.update(b"%s\0%d\0%d\n" % (self.names[index], status.st_size, status.st_mtime_ns))
        return digest.hexdigest()


def subfolder(root: Path, names: tuple[str, ...], layout: str) -> Path:
    """The first of ``root/<names>`` that exists. Raises UserError, which quotes ``layout``, if none does."""
    if not root.is_dir():
        raise UserError(f"There is no folder {root}. Set data.root to {layout}.")
    for name in names:
        if (root / name).is_dir():
            return root / name
    wanted = " or ".join(f"{name}/" for name in names)
    below = next((entry for entry in _entries(root) if (entry / names[0]).is_dir()), None)
    hint = f" Did you mean data.root={below}?" if below else ""
    raise UserError(f"{root} has no folder {wanted}. Set data.root to {layout}.{hint}")


def class_names(folder: Path) -> tuple[str, ...]:
    """The names of the class folders in ``folder``, sorted. Raises UserError if there are fewer than two."""
    entries = _entries(folder)
    classes = tuple(entry.name for entry in entries if entry.is_dir())
    loose = [entry.name for entry in entries if _is_image(entry.name) and not entry.is_dir()]
    if loose:
        raise UserError(
            f"{len(loose)} image(s) lie directly in {folder} and have no class: {some(loose)}. Move each of them into "
            f"the folder of its class: {folder}/<class>/{loose[0]}."
        )
    if not classes:
        raise UserError(
            f"{folder} has no class folders. Put the images of each class into {folder}/<class>/."
        )
    if len(classes) == 1:
        raise UserError(f"{folder} has only one class folder, {classes[0]}/. Add those of the other classes.")
    return classes


def read_tree(folder: Path) -> ImageTree:
    """Lists the images of every class folder and of the folders in it; opens none of them.

    Files without the suffix of an image are skipped; one warning states their number. Raises UserError
    that lists all classes without images.
    """
    classes = class_names(folder)
    listings = [_Listing.of(folder / label) for label in classes]
    if empty := [label for label, found in zip(classes, listings, strict=True) if not found.images]:
        raise UserError(
            f"{len(empty)} class folder(s) in {folder} contain no images: {some(empty)}. Add images to them, or move "
            "them out of the data set."
        )
    skipped = [path for found in listings for path in found.others]
    if skipped:
        log.warning(
            "%s: %d file(s) that are not images were skipped, such as %s.", folder, len(skipped), skipped[0]
        )
    names = [os.fsencode(path.removeprefix(f"{folder}/")) for found in listings for path in found.images]
    sizes = [len(found.images) for found in listings]
    return ImageTree(folder, classes, np.array(names), np.repeat(np.arange(len(classes)), sizes))


def require_same_classes(one: ImageTree, other: ImageTree) -> None:
    """Raises UserError if two trees do not have the same class folders."""
    if one.classes != other.classes:
        only_one = some(set(one.classes) - set(other.classes))
        only_other = some(set(other.classes) - set(one.classes))
        raise UserError(
            f"{one.folder} and {other.folder} have different classes. Only in {one.folder.name}/: {only_one}; "
            f"only in {other.folder.name}/: {only_other}. Both need the same class folders."
        )


def some(names: Collection[str], most: int = 5) -> str:
    """The first names in alphabetical order, and the number of the others: ``a, b and 3 more``."""
    if not names:
        return "none"
    listed = ", ".join(sorted(names)[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


@dataclass(frozen=True)
class _Listing:
    """The files below one class folder, sorted: full paths as strings, much faster than Path for a million files."""

    images: list[str]
    others: list[str]

    @classmethod
    def of(cls, folder: Path) -> _Listing:
        files = sorted(_files(folder))
        return cls(
            [path for path in files if _is_image(path)], [path for path in files if not _is_image(path)]
        )


def _files(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        folders[:] = [name for name in folders if not _is_litter(name)]
        yield from (f"{parent}/{name}" for name in files if not _is_litter(name))


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not _is_litter(entry.name))
    except OSError as error:
        _cannot_list(error)


def _cannot_list(error: OSError) -> NoReturn:
    raise UserError(f"Cannot list the folder {error.filename}: {error.strerror}.") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER
