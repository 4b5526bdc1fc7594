"""Downloading a torchvision data set once, and reading it."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torchvision.datasets.utils import check_integrity

from prunelab.errors import UserError

# Exceptions of torchvision if a file is missing, truncated or of another kind.
DAMAGE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    TypeError,
    AssertionError,
    KeyError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True)
class Archive:
    """A torchvision data set, and instructions for its installation without a network.

    Attributes:
        title: its name in messages.
        dataset: torchvision's class, called as ``dataset(root, train=..., download=...)``.
        folder: the folder that torchvision creates in the root.
        address: the web address of the files.
        by_hand: what to do with the files.
        contents: the files in ``folder`` that are read.
        packed: the archives that contain them, and the MD5 checksum of each. An archive in the root, in ``folder`` or
            in ``packed_folder`` is unpacked instead of downloaded.
        packed_folder: torchvision's folder of the archives, relative to the root.
        images: numbers of training and test images.
    """

    title: str
    dataset: Callable[..., Any]
    folder: str
    address: str
    by_hand: str
    contents: tuple[str, ...] = ()
    packed: Mapping[str, str] = field(default_factory=dict)
    packed_folder: str = ""
    images: tuple[int, int] | None = None

    def download(self, root: Path) -> None:
        """Download into ``root``, or unpack existing archives, unless the set exists already.

        The files are downloaded into a temporary folder and then moved, so several processes can do this at the same
        time, and an interruption leaves no partial files. Files of the user are neither changed nor removed. Raises
        UserError if the download is impossible.
        """
        target = root / self.folder
        if self._is_complete(target):
            return
        damaged: list[Path] = []
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as temporary:
                copies, damaged = self._copy_packed(root, Path(temporary))
                self.dataset(temporary, train=True, download=True)
                for copy in copies:
                    copy.unlink(missing_ok=True)
                self._move(Path(temporary) / self.folder, target)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
            if self._is_complete(target):  # another process was faster
                return
            unused = "".join(f"\n{path} has a wrong checksum and was not used." for path in damaged)
            raise UserError(
                f"{self.title} could not be downloaded into {root}: {error}{unused}\n{self._instructions(root)}"
            ) from error

    def read(self, root: Path, train: bool) -> Any:
        """torchvision's data set object. Raises UserError if files are missing or damaged, or images are missing."""
        folder = root / self.folder
        try:
            found = self.dataset(root, train=train, download=False)
        except DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{self.title} is missing or damaged in {folder}: {reason}\n"
                f"If the folder exists, rename it; the next run downloads the set again. {self._instructions(root)}"
            ) from error
        if self.images is not None and len(found) != (expected := self.images[0 if train else 1]):
            part = "training" if train else "test"
            raise UserError(
                f"{folder} holds {len(found):,} {part} images, but {self.title} has {expected:,}: it is a part of the "
                "set, or another set. Use the complete set (data.train_fraction selects a part of it), or "
                "data=image_folder for images of your own."
            )
        return found

    def _is_complete(self, target: Path) -> bool:
        return target.is_dir() and all((target / name).is_file() for name in self.contents)

    def _copy_packed(self, root: Path, temporary: Path) -> tuple[list[Path], list[Path]]:
        """Copy existing archives to the folder that torchvision reads; (copies, archives with a wrong checksum)."""
        copies, damaged = [], []
        for name, checksum in self.packed.items():
            places = [root / place / name for place in ("", self.folder, self.packed_folder)]
            found = [path for path in dict.fromkeys(places) if path.is_file()]
            whole = [path for path in found if check_integrity(path, checksum)]
            if whole:
                copy = temporary / self.packed_folder / name
                copy.parent.mkdir(parents=True, exist_ok=True)
                copies.append(Path(shutil.copyfile(whole[0], copy)))
            else:
                damaged += found
        return copies, damaged

    def _move(self, made: Path, target: Path) -> None:
        if not target.exists():
            made.replace(target)
            return
        for name in self.contents:
            if not (target / name).exists():
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).replace(target / name)

    def _instructions(self, root: Path) -> str:
        return (
            f"Without a network: download the files from {self.address} on another machine and {self.by_hand}; or set "
            f"data.root (or the environment variable PRUNELAB_DATA) to a folder that contains {self.folder}/."
        )
