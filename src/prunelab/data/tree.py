"""Folders of images, one folder per class: what is in them, and what is wrong with them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from torchvision.datasets.folder import IMG_EXTENSIONS

from prunelab.errors import UserError

LITTER = frozenset({"Thumbs.db", "desktop.ini"})
"""Left behind by file managers; passed over, as hidden files are."""


@dataclass(frozen=True)
class ImageTree:
    """The image files of ``folder/<class>/...``, sorted by class and name.

    File names are relative to ``folder`` and kept in one array of bytes: a million Python strings would be
    copied, page by page, into every worker process that merely looks at them.
    """

    folder: Path
    classes: tuple[str, ...]
    names: np.ndarray
    targets: np.ndarray  # int64 (N,), positions in classes

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> Path:
        """Where the ``index``-th image lies."""
        return self.folder / os.fsdecode(self.names[index])

    def fingerprint(self) -> str:
        """A digest of the names, sizes and modification times of all files."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            status = self.path(index).stat()
            digest.update(b"%s\0%d\0%d\n" % (self.names[index], status.st_size, status.st_mtime_ns))
        return digest.hexdigest()


def subfolder(root: Path, names: tuple[str, ...], layout: str) -> Path:
    """The first of ``root/<names>`` that exists. Raises UserError, quoting ``layout``, if none does."""
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
            f"{len(loose)} image(s) lie directly in {folder} (such as {loose[0]}), where their class is "
            f"unknown. Sort them into one folder per class: {folder}/<class>/{loose[0]}."
        )
    if not classes:
        raise UserError(f"{folder} has no class folders. Put each class's images into {folder}/<class>/.")
    if len(classes) == 1:
        raise UserError(f"{folder} has one class folder only, {classes[0]}/. Add those of the other classes.")
    return classes


def read_tree(folder: Path) -> ImageTree:
    """Lists the images of every class folder (and the folders therein); opens none of them.

    Raises UserError for a class without images, and for a file that is no image by its name.
    """
    classes = class_names(folder)
    names: list[bytes] = []
    sizes = []
    for label in classes:
        found = sorted(_image_files(folder / label))
        if not found:
            raise UserError(f"The class folder {folder / label} holds no images. Fill it or remove it.")
        names += [os.fsencode(path.removeprefix(f"{folder}/")) for path in found]
        sizes.append(len(found))
    return ImageTree(folder, classes, np.array(names), np.repeat(np.arange(len(classes)), sizes))


def require_same_classes(one: ImageTree, other: ImageTree) -> None:
    """Raises UserError if two trees do not have the same class folders."""
    if one.classes != other.classes:
        only_one = _some(set(one.classes) - set(other.classes))
        only_other = _some(set(other.classes) - set(one.classes))
        raise UserError(
            f"{one.folder} and {other.folder} differ in classes. Only in {one.folder.name}/: {only_one}; "
            f"only in {other.folder.name}/: {only_other}. Give both the same class folders."
        )


def _image_files(folder: Path) -> Iterator[str]:
    """Full paths as plain strings, which for a million files is several times as quick as Path objects."""
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = [name for name in folders if not _is_litter(name)]
        for name in files:
            if _is_litter(name):
                continue
            if not _is_image(name):
                raise UserError(
                    f"{parent}/{name} is not an image file. Move it out of the class folder. "
                    f"(Images end in {' '.join(IMG_EXTENSIONS)}.)"
                )
            yield f"{parent}/{name}"


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not _is_litter(entry.name))
    except OSError as error:
        _refuse(error)


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"Cannot list the folder {error.filename}: {error.strerror}.") from error


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMG_EXTENSIONS)


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _some(names: set[str], most: int = 5) -> str:
    if not names:
        return "none"
    listed = ", ".join(sorted(names)[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"
