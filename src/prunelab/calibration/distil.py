"""A short distillation from the full network on the calibration images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from prunelab.calibration.checks import require_positive
from prunelab.calibration.pair import Pair
from prunelab.calibration.tuning import Minibatches, tune


@dataclass(frozen=True)
class Distil:
    """Adam on all weights, minimising the squared difference from the outputs of the full network, without labels.

    Squared error of logits (Ba, Caruana, NIPS 2014, arXiv:1312.6184) is the limit of Hinton's distillation for high
    temperature; images are flipped and shifted at random. Batch normalisations keep their statistics.

    steps: number of steps for the best of the rates; each other rate is tried with a quarter of them.
    batch: images of a step.
    rates: highest learning rates that are tried. The one with the smallest error on an eighth of the images, which no
        step uses, is taken; if the error does not fall, nothing changes.
    flip: mirror half of the images.
    shift: largest shift as a fraction of height and width (the border is reflected).
    mix: replace each image by a mean of itself and another of the same minibatch, with a random weight from 0 to 1
        (Zhang et al., mixup, ICLR 2018, arXiv:1710.09412; with outputs of the full network for the mixed images as in
        Beyer et al., CVPR 2022, arXiv:2106.05237). For about 800 steps or more.
    """

    steps: int = 200
    batch: int = 32
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    flip: bool = True
    shift: float = 0.125
    mix: bool = False

    def __post_init__(self) -> None:
        require_positive("distil", steps=self.steps, batch=self.batch)

    def __call__(self, pair: Pair) -> None:
        """Adjust ``pair.pruned``."""
        images = Minibatches.of(pair, self.batch)
        with pair.looking():
            parameters = [
                parameter for parameter in pair.pruned.parameters() if parameter.is_floating_point()
            ]

            def error(place: int) -> Tensor:
                seen = images.shares[place]
                if place < images.train:  # random numbers are drawn for the images of all ranks
                    seen = augmented(images.all[place], images.generator, self.flip, self.shift)
                    seen = mixed(seen, images.generator) if self.mix else seen
                    seen = seen[images.rank :: images.ranks]
                with torch.no_grad():
                    wanted = pair.full(seen)
                return (pair.pruned(seen) - wanted).square().flatten(1).mean(dim=1).sum() / images.sizes[
                    place
                ]

            tune(parameters, error, images, self.steps, self.rates)


def augmented(images: Tensor, generator: torch.Generator, flip: bool, shift: float) -> Tensor:
    """Images (N, C, H, W), each mirrored with probability 1/2 (if ``flip``) and shifted by whole pixels."""
    count, _, height, width = images.shape
    down, along = round(shift * height), round(shift * width)
    padded = functional.pad(images, (along, along, down, down), mode="reflect")
    top = torch.randint(0, 2 * down + 1, (count, 1), generator=generator)
    left = torch.randint(0, 2 * along + 1, (count, 1), generator=generator)
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5) & torch.tensor(flip)
    columns = torch.arange(width).expand(count, -1)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left
    lines = torch.arange(height) + top
    image = torch.arange(count)[:, None, None]
    chosen = padded[image, :, lines[:, :, None], columns[:, None, :]]
    return chosen.movedim(-1, 1).contiguous()


def mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    """Means of images (N, C, H, W) and other images of them, with a random weight from 0 to 1 for each pair."""
    others = images[torch.randperm(len(images), generator=generator).to(images.device)]
    weights = torch.rand(len(images), 1, 1, 1, generator=generator).to(images)
    return weights * images + (1 - weights) * others
