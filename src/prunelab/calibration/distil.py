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
    """

    steps: int = 200
    batch: int = 32
    rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3)
    flip: bool = True
    shift: float = 0.125

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
                if place < images.train:
                    rows = slice(images.rank, None, images.ranks)
                    seen = augmented(seen, images.sizes[place], rows, images.generator, self.flip, self.shift)
                with torch.no_grad():
                    wanted = pair.full(seen)
                return (pair.pruned(seen) - wanted).square().flatten(1).mean(dim=1).sum() / images.sizes[
                    place
                ]

            tune(parameters, error, images, self.steps, self.rates)


def augmented(
    images: Tensor, count: int, rows: slice, generator: torch.Generator, flip: bool, shift: float
) -> Tensor:
    """Images (N, C, H, W), each mirrored with probability 1/2 and shifted by whole pixels.

    They are those at ``rows`` of ``count`` images; random numbers are drawn for all images.
    """
    height, width = images.shape[2:]
    down, along = round(shift * height), round(shift * width)
    padded = functional.pad(images, (along, along, down, down), mode="reflect")
    top = torch.randint(0, 2 * down + 1, (count, 1), generator=generator)[rows]
    left = torch.randint(0, 2 * along + 1, (count, 1), generator=generator)[rows]
    mirrored = (torch.rand(count, 1, generator=generator)[rows] < 0.5) & torch.tensor(flip)
    columns = torch.arange(width).expand(len(images), -1)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left
    lines = torch.arange(height) + top
    image = torch.arange(len(images))[:, None, None]
    chosen = padded[image, :, lines[:, :, None], columns[:, None, :]]
    return chosen.movedim(-1, 1).contiguous()
