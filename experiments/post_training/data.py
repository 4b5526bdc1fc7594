"""The images of the study: folders of JPEG files, read once into tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

CIFAR_MEAN, CIFAR_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Images:
    """``evaluation``: (images, classes), used only for final figures; the others are for calibration."""

    evaluation: tuple[Tensor, Tensor]
    others: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Images:
        """The same images on a device."""
        (shown, classes), (images, others) = self.evaluation, self.others
        return Images((shown.to(device), classes.to(device)), (images.to(device), others.to(device)))

    def calibration(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """A number of calibration images, drawn with this seed."""
        images, classes = self.others
        chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count].to(
            images.device
        )
        return images[chosen], classes[chosen]


def load_images(network: str, folder: Path, evaluate: int | None) -> Images:
    """The images of a network's data set; at most ``evaluate`` for evaluation, distributed evenly over the classes."""
    imagenet = network == "lite0"
    known = timm.data.ImageNetInfo().label_names() if imagenet else None
    evaluation = sorted((folder / "val").glob("*/*.jpg"))
    others = sorted((folder / "train").glob("*/*.jpg"))
    if evaluate is not None:
        evaluation = evaluation[:: max(1, len(evaluation) // evaluate)]
    others = others if imagenet else others[::8]  # 6,250 are enough for all seeds
    transform = imagenet_transform() if imagenet else cifar_transform()

    def read(files: list[Path]) -> tuple[Tensor, Tensor]:
        names = known or sorted({file.parent.name for file in files})
        images = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
        return images, torch.tensor([names.index(file.parent.name) for file in files])

    return Images(read(evaluation), read(others))


def imagenet_transform() -> v2.Compose:
    """Shorter side 256 (bicubic), centre crop of 224, mean and standard deviation 0.5."""
    return v2.Compose(
        [
            v2.Resize(256, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(224),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )


def cifar_transform() -> v2.Compose:
    """The normalisation with which the networks were trained."""
    return v2.Compose(
        [
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(CIFAR_MEAN), list(CIFAR_STD)),
        ]
    )
