"""ImageNet, ILSVRC-2012 (Russakovsky et al. 2015): 1,281,167 training and 50,000 validation photographs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from torchvision.transforms import v2

from prunelab.data.augment import BatchTransform
from prunelab.data.checks import channel_values, one_of, open_fraction, switch, whole_number
from prunelab.data.imagenet_classes import CLASSES, report_subset, synsets, with_imagenet_indices
from prunelab.data.module import ImageData
from prunelab.data.sources import FileImages, ImageView
from prunelab.data.split import Split, Splits, hold_out
from prunelab.data.tree import ImageTree, class_names, read_tree, require_same_classes, subfolder
from prunelab.errors import UserError

TrainCrop = Literal["area", "window"]
LAYOUT = (
    "the folder of ILSVRC-2012 with train/<class>/ and val/<class>/ "
    "(download the images from https://image-net.org, which requires registration)"
)


class ImageNet(ImageData):
    """ILSVRC-2012 in the usual folders, read by worker processes.

    Training images: a random crop of 8 to 100 % of the area, resized, and a random flip (Szegedy et al. 2015). Test
    images: the shorter side is resized to 256 pixels, the centre of 224 pixels is cut out. (With ``train_crop`` and
    ``keep_aspect`` images are prepared as for Caffe: all images are resized to 256x256, and training uses random
    windows of them.) The 50,000 validation images are the test set here; validation is held out of the training images.

    With ``num_classes=1000`` the folders may hold only some of the classes, train/ and val/ different ones. Their names
    must then be WordNet ids. Every image has the index that its class has in ILSVRC-2012, so that a network with 1000
    outputs can be tested on a subset. If a class has too few images, validation images are held out at random, without
    regard to the classes.

    Args:
        root: folder that contains train/<class>/ and val/<class>/; test/ (images without classes) is not read.
        num_classes: number of outputs of the network. 1000: all classes or some of them, with the indices of
            ILSVRC-2012. A smaller number: required number of class folders, which are numbered in alphabetical order.
        image_size: side of the crops in pixels.
        resize: length of the shorter side from which the central test crop (and a window) is cut.
        keep_aspect: False resizes to a square of this side and changes the proportions of the image.
        train_crop: "area": a random part of a training image, resized; "window": a random window of the resized image.
        min_scale: for "area": smallest fraction of the area of a training image.
        flip: mirror training images at random.
        mean, std: normalisation per channel of values in [0, 1].
        num_workers: processes that read images ahead; 0 reads in the training process. Does not change a batch.
        batch_size, eval_batch_size, val_fraction, train_fraction, seed, split_seed: see ImageData.
    """

    name = "imagenet"

    def __init__(
        self,
        root: str | Path = "data/imagenet",
        num_classes: int = CLASSES,
        image_size: int = 224,
        resize: int = 256,
        keep_aspect: bool = True,
        train_crop: TrainCrop = "area",
        min_scale: float = 0.08,
        flip: bool = True,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
        num_workers: int = 8,
        batch_size: int = 256,
        eval_batch_size: int = 256,
        val_fraction: float = 0.01,
        train_fraction: float = 1.0,
        seed: int = 0,
        split_seed: int = 0,
    ) -> None:
        size = whole_number("image_size", image_size, at_least=1)
        super().__init__(
            image_shape=(3, size, size),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            val_fraction=val_fraction,
            train_fraction=train_fraction,
            seed=seed,
            split_seed=split_seed,
        )
        self.root = Path(root).expanduser()
        self.classes_expected = whole_number("num_classes", num_classes, at_least=2)
        self.resize = whole_number("resize", resize, at_least=size)
        self.keep_aspect = switch("keep_aspect", keep_aspect)
        self.train_crop = one_of("train_crop", train_crop, get_args(TrainCrop))
        self.min_scale = open_fraction("min_scale", min_scale)
        self.num_workers = whole_number("num_workers", num_workers, at_least=0)
        self.transform = BatchTransform(
            mean=channel_values("mean", mean, channels=(3,)),
            std=channel_values("std", std, channels=(3,)),
            flip=switch("flip", flip),
        )

    @property
    def num_classes(self) -> int:
        """The number of outputs of a network; ``setup`` compares the folders with it."""
        return self.classes_expected

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes (WordNet ids), in the order of their numbers; lists the folder train/.

        The names of the class folders, or those of all 1000 classes if train/ holds fewer.
        """
        names = class_names(subfolder(self.root, ("train",), LAYOUT))
        return synsets() if len(names) < self.classes_expected == CLASSES else names

    @property
    def resized(self) -> tuple[int, bool]:
        """(side, keep_aspect): how an image is resized for testing before its centre is cut out."""
        return self.resize, self.keep_aspect

    def read_splits(self) -> Splits:
        """Lists the files of train/ and val/ and counts the classes; opens no image."""
        training, testing = self._tree("train"), self._tree("val")
        complete = len(training.classes) == len(testing.classes) == self.classes_expected
        if not complete:
            training, testing = with_imagenet_indices(training), with_imagenet_indices(testing)
            report_subset(training, testing)
        require_same_classes(training, testing)
        images = Split.whole(self._source(training))
        train, val = hold_out(images, self.val_fraction, self.split_seed, of_every_class=complete)
        return Splits(train, val, test=Split.whole(self._source(testing)))

    def train_view(self) -> ImageView:
        """A random part of an image, by torchvision's transforms.v2; BatchTransform flips it."""
        size = self.image_shape[1]
        if self.train_crop == "window":
            return v2.Compose([self._resized(), v2.RandomCrop(size), v2.PILToTensor()])
        crop = v2.RandomResizedCrop(size, scale=(self.min_scale, 1.0), antialias=True)
        return v2.Compose([crop, v2.PILToTensor()])

    def test_view(self) -> ImageView:
        """The centre of a resized image, by torchvision's transforms.v2."""
        return v2.Compose([self._resized(), v2.CenterCrop(self.image_shape[1]), v2.PILToTensor()])

    def _resized(self) -> v2.Transform:
        size = self.resize if self.keep_aspect else (self.resize, self.resize)
        return v2.Resize(size, antialias=True)

    def _source(self, tree: ImageTree) -> FileImages:
        return FileImages(tree, self.transform, self.train_view(), self.test_view(), self.num_workers)

    def _tree(self, part: str) -> ImageTree:
        tree = read_tree(subfolder(self.root, (part,), LAYOUT))
        found, expected = len(tree.classes), self.classes_expected
        if found != expected and not found < expected == CLASSES:
            raise UserError(
                f"{tree.folder} has {found} class folders instead of {expected} (data.num_classes). Set "
                f"data.num_classes={found} for a network with {found} outputs, or data.num_classes={CLASSES} for one "
                "with ImageNet's own classes, which can be tested on a part of them."
            )
        return tree
