"""Fetching a torchvision data set once, and reading what is there."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.errors import UserError

# What torchvision lets escape when a file is missing, cut short or something else.
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
    """A torchvision data set, and what a user must know to put it in place by hand.

    Attributes:
        title: its name in messages.
        dataset: torchvision's class, called as ``dataset(root, train=..., download=...)``.
        folder: what it makes inside the root.
        address: where people find the files.
        by_hand: what to do with them.
    """

    title: str
    dataset: Callable[..., Any]
    folder: str
    address: str
    by_hand: str

    def download(self, root: Path) -> None:
        """Downloads into ``root`` unless the folder is there.

        The files arrive in a scratch folder and move into place at once, so that several processes may try
        together, and an interrupted download leaves nothing half done. Raises UserError if it is impossible.
        """
        target = root / self.folder
        if target.exists():
            return
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=root, prefix=".download-") as scratch:
                self.dataset(scratch, train=True, download=True)
                if not target.exists():
                    (Path(scratch) / self.folder).replace(target)
        except (OSError, RuntimeError) as error:  # URLError is an OSError; torchvision raises RuntimeError
            if target.exists():  # another process was quicker
                return
            raise UserError(
                f"{self.title} could not be downloaded into {root}: {error}\n{self._instructions(root)}"
            ) from error

    def read(self, root: Path, train: bool) -> Any:
        """torchvision's data set object. Raises UserError if files are missing or damaged."""
        try:
            return self.dataset(root, train=train, download=False)
        except DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise UserError(
                f"{self.title} is missing or damaged in {root / self.folder}: {reason}\n"
                f"Remove that folder, then run again to download it anew. {self._instructions(root)}"
            ) from error

    def _instructions(self, root: Path) -> str:
        return (
            f"Without a network: get the files from {self.address} elsewhere and {self.by_hand}, so that "
            f"{root / self.folder} exists; or point data.root (or the environment variable PRUNELAB_DATA) "
            f"at a folder that already has {self.folder}/."
        )
