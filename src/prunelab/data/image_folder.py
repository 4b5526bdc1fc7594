"""A data set of images in the folders train/<class>/ and val/<class>/ or test/<class>/."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

from torch import Tensor

from prunelab.data.augment import BatchTransform
from prunelab.data.cache import cached
from prunelab.data.checks import channel_values, padding, switch, whole_number
from prunelab.data.decode import decode_all, fit_square
from prunelab.data.loader import ImageSource
from prunelab.data.module import ImageData
from prunelab.data.sources import FileImages, MemoryImages
from prunelab.data.split import Split, Splits
from prunelab.data.tree import ImageTree, class_names, read_tree, require_same_classes, subfolder
from prunelab.errors import UserError

LAYOUT = "a folder that holds train/<class>/ and val/<class>/ or test/<class>/"
AUTO_MEMORY_BYTES = 2 * 2**30


class ImageFolder(ImageData):
    """Images in folders, one per class; the classes are numbered in alphabetical order.

    With train/ and one of val/ or test/, the latter is the test set, and validation is held out of train/. With all
    three, each has the role of its name, and ``val_fraction`` has no effect. The centre square of every image is used,
    resized. The content of the batches depends neither on ``in_memory`` nor on ``num_workers``.

    Args:
        root: the folder.
        name: name of the data set in records and tables.
        image_size: side of the squares in pixels.
        mean, std: normalisation per channel of values in [0, 1]; with one value each, images are read as grey.
        crop_padding: pixels of zero padding for the random training crop; 0 switches it off.
        flip: mirror training images at random.
        in_memory: True decodes all images once into uint8 tensors; False decodes each image in each epoch, in worker
            processes; "auto" is True if the decoded images take at most 2 GiB.
        cache: file that stores the decoded images between runs (only if they are in memory), or None. It is replaced
            when a file of the tree has changed.
        num_workers: processes that read images ahead if these are not in memory; 0 reads in the training process.
        batch_size, eval_batch_size, val_fraction, train_fraction, seed, split_seed: see ImageData.
    """

    def __init__(
        self,
        root: str | Path,
        name: str = "image_folder",
        image_size: int = 32,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        crop_padding: int = 4,
        flip: bool = True,
        in_memory: bool | Literal["auto"] = "auto",
        cache: str | Path | None = None,
        num_workers: int = 4,
        batch_size: int = 128,
        eval_batch_size: int = 256,
        val_fraction: float = 0.1,
        train_fraction: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        self.name = name
        size = whole_number("image_size", image_size, at_least=1)
        self.transform = BatchTransform(
            mean=channel_values("mean", mean, channels=(1, 3)),
            std=channel_values("std", std, channels=(1, 3)),
            crop_padding=padding(crop_padding, size),
            flip=switch("flip", flip),
        )
        super().__init__(
            image_shape=(len(self.transform.mean), size, size),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            train_fraction=train_fraction,
            seed=seed,
            split_seed=split_seed,
        )
        if in_memory != "auto" and not isinstance(in_memory, bool):
            raise UserError(f"data.in_memory must be auto, true or false, not {in_memory!r}.")
        self.root = Path(root).expanduser()
        self.in_memory = in_memory
        self.cache = None if cache is None else Path(cache).expanduser()
        self.num_workers = whole_number("num_workers", num_workers, at_least=0)

    @property
    def num_classes(self) -> int:
        """The number of class folders in train/; lists the folder."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the class folders in train/, in the order of their numbers; lists the folder."""
        return class_names(subfolder(self.root, ("train",), LAYOUT))

    def prepare_data(self) -> None:
        """Fills the cache, so that only one process decodes images; without a cache each process decodes in
        ``setup``."""
        if self.cache is not None and self._fits_memory(self._trees):
            self._decoded(self._trees)

    def read_splits(self) -> Splits:
        """Lists the folders, and decodes all images if they are kept in memory."""
        sources = self._sources(self._trees)
        train = Split.whole(sources["train"])
        test = Split.whole(sources["test"])
        if "val" in sources:
            return Splits(train, Split.whole(sources["val"]), test)
        return Splits(*self.hold_out_validation(train), test)

    @cached_property
    def _trees(self) -> dict[str, ImageTree]:
        """The trees for "train", "test" and, if both val/ and test/ exist, "val"."""
        folders = {
            "train": subfolder(self.root, ("train",), LAYOUT),
            "test": subfolder(self.root, ("test", "val"), LAYOUT),
        }
        if folders["test"].name == "test" and (self.root / "val").is_dir():
            folders["val"] = self.root / "val"
        trees = {part: read_tree(folder) for part, folder in folders.items()}
        for tree in trees.values():
            require_same_classes(trees["train"], tree)
        return trees

    def _sources(self, trees: Mapping[str, ImageTree]) -> dict[str, ImageSource]:
        if self._fits_memory(trees):
            images = self._decoded(trees)
            return {part: MemoryImages(images[part], trees[part].targets, self.transform) for part in trees}
        view = partial(fit_square, size=self.image_shape[1])
        return {
            part: FileImages(
                tree, self.transform, train_view=view, test_view=view, num_workers=self.num_workers
            )
            for part, tree in trees.items()
        }

    def _fits_memory(self, trees: Mapping[str, ImageTree]) -> bool:
        if self.in_memory != "auto":
            return self.in_memory
        channels, height, width = self.image_shape
        return sum(map(len, trees.values())) * channels * height * width <= AUTO_MEMORY_BYTES

    def _decoded(self, trees: Mapping[str, ImageTree]) -> Mapping[str, Tensor]:
        channels, size, _ = self.image_shape

        def decode() -> dict[str, Tensor]:
            return decode_all(trees, size, channels)

        if self.cache is None:
            return decode()
        parts = [f"{part} {tree.fingerprint()}" for part, tree in sorted(trees.items())]
        key = hashlib.sha256(f"{self.image_shape} {parts}".encode()).hexdigest()
        return cached(self.cache, key, decode)
