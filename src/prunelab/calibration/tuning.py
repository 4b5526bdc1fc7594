"""A short optimisation of weights that does not increase the error on held-out images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from prunelab.calibration.pair import Pair
from prunelab.distributed.ranks import sum_over_ranks, world

HELD_OUT = 8
"""One image in this many is held out from an optimisation."""

CHECKS = 4
"""Number of evaluations on the held-out images during an optimisation."""


@dataclass(frozen=True)
class Minibatches:
    """All calibration images in minibatches; of each minibatch this rank has a share (every ranks-th image).

    ``all``: the complete minibatches. The first ``train`` of them are for training, the others are held out.
    """

    all: list[Tensor]
    train: int
    generator: torch.Generator
    rank: int = 0
    ranks: int = 1

    @staticmethod
    def of(pair: Pair, size: int) -> Minibatches:
        """Minibatches of the images of a pair, shuffled once."""
        generator = torch.Generator().manual_seed(pair.seed)
        images = pair.all_images()
        images = images[torch.randperm(len(images), generator=generator).to(images.device)]
        count = max(1, len(images) // HELD_OUT)
        parts = list((images[count:] if len(images) > count else images).split(size))
        train = len(parts)
        parts += images[:count].split(size)
        return Minibatches(parts, train, generator, *world())

    @cached_property
    def shares(self) -> list[Tensor]:
        """The images of each minibatch that belong to this rank."""
        return [part[self.rank :: self.ranks] for part in self.all]

    @cached_property
    def sizes(self) -> list[int]:
        """The number of images of each minibatch on all ranks; a rank's error is divided by it, so that the sum of the
        gradients of all ranks equals the gradient of one process."""
        return [len(part) for part in self.all]

    def mean(self, values: Sequence[Tensor]) -> float:
        """The mean over the images of all ranks, from the ``values`` (images,) of each share."""
        total = torch.stack([value.double().sum() for value in values]).sum()
        sum_over_ranks(total)
        return float(total) / sum(self.sizes)


def tune(
    parameters: Sequence[nn.Parameter],
    error: Callable[[int], Tensor],
    images: Minibatches,
    steps: int,
    rates: Sequence[float],
) -> float:
    """Adam, with a rate that rises for a tenth of the steps and then falls to 0 (cosine).

    error(place): the error of this rank's share of a minibatch, divided by the images of all ranks. The rate is the
    best one of short runs; the final weights are those with the smallest error on the held-out minibatches, possibly
    the initial ones. Returns that error.
    """
    needed = [parameter.requires_grad for parameter in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        run = _Run(parameters, error, images)
        short = max(1, steps // 4)
        rate = rates[0] if len(rates) == 1 else min(rates, key=lambda each: run(short, each))
        run(steps, rate)
        return run.restore()
    finally:
        for parameter, flag in zip(parameters, needed, strict=True):
            parameter.requires_grad_(flag)
            parameter.grad = None


class _Run:
    """Optimisations from one starting point, and the best weights of all of them."""

    def __init__(
        self, parameters: Sequence[nn.Parameter], error: Callable[[int], Tensor], images: Minibatches
    ) -> None:
        self._parameters, self._error, self._images = parameters, error, images
        self._start = [parameter.detach().clone() for parameter in parameters]
        self._kept, self._best = self._start, self._held_out()

    def __call__(self, steps: int, rate: float) -> float:
        """Optimise from the start; returns the smallest error on held-out images."""
        self._set(self._start)
        optimizer = torch.optim.Adam(self._parameters, lr=rate)
        marks = {round(steps * (check + 1) / CHECKS) for check in range(CHECKS)}
        generator = self._images.generator
        least = math.inf
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = rate * _share(step, steps)
            place = int(torch.randint(self._images.train, (1,), generator=generator))
            optimizer.zero_grad(set_to_none=False)
            self._error(place).backward()
            for parameter in self._parameters:
                if parameter.grad is not None:
                    sum_over_ranks(parameter.grad)
            optimizer.step()
            if step + 1 in marks:
                found = self._held_out()
                least = min(least, found)
                if found < self._best:
                    self._best, self._kept = found, [each.detach().clone() for each in self._parameters]
        return least

    def restore(self) -> float:
        """Set the best weights; returns their error."""
        self._set(self._kept)
        return self._best

    @torch.no_grad()
    def _held_out(self) -> float:
        images = self._images
        places = range(images.train, len(images.shares))
        total = sum(self._error(place).double() * images.sizes[place] for place in places)
        assert isinstance(total, Tensor)
        sum_over_ranks(total)
        return float(total) / sum(images.sizes[place] for place in places)

    @torch.no_grad()
    def _set(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)


def _share(step: int, steps: int) -> float:
    """The rate of a step relative to the highest."""
    rise = max(1, steps // 10)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
