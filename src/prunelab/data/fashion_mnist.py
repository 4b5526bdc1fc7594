"""Fashion-MNIST (Xiao et al. 2017): 60,000 training and 10,000 test images of 28x28, grey, in ten classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import FashionMNIST

from prunelab.data.augment import BatchTransform
from prunelab.data.checks import channel_values, padding, switch
from prunelab.data.download import Archive
from prunelab.data.module import ImageData
from prunelab.data.sources import MemoryImages
from prunelab.data.split import Split, Splits

ARCHIVE = Archive(
    title="Fashion-MNIST",
    dataset=FashionMNIST,
    folder="FashionMNIST",
    address="https://github.com/zalandoresearch/fashion-mnist (data/fashion)",
    by_hand="copy the four .gz files to FashionMNIST/raw in that folder, packed or unpacked",
    contents=tuple(f"raw/{name.removesuffix('.gz')}" for name, _ in FashionMNIST.resources),
    packed=dict(FashionMNIST.resources),
    packed_folder="FashionMNIST/raw",
    images=(60_000, 10_000),
)
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class FashionMnist(ImageData):
    """Fashion-MNIST, held in memory.

    Args:
        root: folder that contains ``FashionMNIST/raw``, or into which it is downloaded. Packed files (.gz) in it are
            unpacked.
        mean, std: normalisation of grey values in [0, 1]; by default those of the training images.
        crop_padding: pixels of zero padding for the random training crop; 0 switches it off.
        flip: mirror training images at random.
        batch_size, eval_batch_size, val_fraction, train_fraction, seed, split_seed: see ImageData.
    """

    name = "fashion_mnist"
    num_classes = 10
    class_names = CLASSES

    def __init__(
        self,
        root: str | Path = "data",
        mean: Sequence[float] = (0.2860,),
        std: Sequence[float] = (0.3530,),
        crop_padding: int = 4,
        flip: bool = True,
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_fraction: float = 0.1,
        train_fraction: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        super().__init__(
            image_shape=(1, 28, 28),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            train_fraction=train_fraction,
            seed=seed,
            split_seed=split_seed,
        )
        self.root = Path(root).expanduser()
        self.transform = BatchTransform(
            mean=channel_values("mean", mean, channels=(1,)),
            std=channel_values("std", std, channels=(1,)),
            crop_padding=padding(crop_padding, 28),
            flip=switch("flip", flip),
        )

    def prepare_data(self) -> None:
        """Downloads 31 MB unless the files exist. Raises UserError if that is impossible."""
        ARCHIVE.download(self.root)

    def read_splits(self) -> Splits:
        """Reads all images into memory (55 MB)."""
        train, val = self.hold_out_validation(Split.whole(self._source(train=True)))
        return Splits(train, val, test=Split.whole(self._source(train=False)))

    def _source(self, train: bool) -> MemoryImages:
        dataset = ARCHIVE.read(self.root, train)
        return MemoryImages(dataset.data[:, None], dataset.targets.numpy(), self.transform)
