"""Least squares of one layer from streamed sums: y = W x + c, with the images divided into folds.

For each group of a convolution (a depthwise convolution has one group for each channel) x (features,) are the inputs of
an output position and y (outputs,) the target outputs. Sums are stored for each fold of images, so that the penalty can
be chosen by the error on images that a fit does not use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache

import torch
from torch import Tensor

from prunelab.distributed.ranks import sum_over_ranks

RIDGES = (1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0)
"""Penalties that are tried, relative to the mean variance of an input."""


@dataclass
class Sums:
    """Sums over all rows of each fold, float64; first dimension: folds, second: groups.

    xx (K, G, D, D), xy (K, G, D, O), yy (K, G, O), x (K, G, D), y (K, G, O), rows (K,).
    """

    xx: Tensor
    xy: Tensor
    yy: Tensor
    x: Tensor
    y: Tensor
    rows: Tensor

    @staticmethod
    def zeros(folds: int, groups: int, features: int, outputs: int, device: torch.device) -> Sums:
        """Sums that are zero; ``outputs`` are those of one group."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(folds, *shape, dtype=torch.float64, device=device)

        return Sums(
            xx=zeros(groups, features, features),
            xy=zeros(groups, features, outputs),
            yy=zeros(groups, outputs),
            x=zeros(groups, features),
            y=zeros(groups, outputs),
            rows=zeros(),
        )

    @property
    def folds(self) -> int:
        """The number of parts into which the images are divided."""
        return len(self.rows)

    def add(self, inputs: Tensor, outputs: Tensor, images: int) -> None:
        """Add rows ``inputs`` (G, rows, D) and ``outputs`` (G, rows, O) of this number of images, equally many rows of
        each.

        Image i of a batch belongs to fold i modulo folds.
        """
        x = inputs.double().reshape(len(inputs), images, -1, inputs.shape[2])
        y = outputs.double().reshape(len(outputs), images, -1, outputs.shape[2])
        for fold in range(self.folds):
            own_x, own_y = x[:, fold :: self.folds].flatten(1, 2), y[:, fold :: self.folds].flatten(1, 2)
            self.xx[fold].baddbmm_(own_x.mT, own_x)
            self.xy[fold].baddbmm_(own_x.mT, own_y)
            self.yy[fold] += own_y.square().sum(dim=1)
            self.x[fold] += own_x.sum(dim=1)
            self.y[fold] += own_y.sum(dim=1)
            self.rows[fold] += own_x.shape[1]

    def reduce(self) -> None:
        """Replace the sums of this rank by those of all ranks."""
        for field in fields(self):
            sum_over_ranks(getattr(self, field.name))

    def total(self, without: int | None = None) -> Sums:
        """The sums over all folds, or over all except one, as a single fold."""
        chosen = [fold for fold in range(self.folds) if fold != without]
        return Sums(*(getattr(self, field.name)[chosen].sum(dim=0, keepdim=True) for field in fields(self)))

    def only(self, fold: int) -> Sums:
        """The sums over one fold."""
        return Sums(*(getattr(self, field.name)[fold : fold + 1] for field in fields(self)))


@dataclass(frozen=True)
class Fit:
    """A solution: ``weights`` (G, O, D), ``constants`` (G, O), the ridge, and held-out errors relative to E|y|^2.

    ``before`` and ``after``: E|y - W x - c|^2 / E|y - E y|^2 with the weights before (and their best constants) and
    with those of the fit.
    """

    weights: Tensor
    constants: Tensor
    ridge: float
    before: float
    after: float


def fitted(sums: Sums, weights: Tensor, constant: bool, ridges: Sequence[float] = RIDGES) -> Fit:
    """Weights near ``weights`` (G, O, D) that reproduce the outputs, with the ridge chosen by cross-validation.

    They minimise E|y - W x - c|^2 + ridge v |W - weights|^2, where v is the mean variance of an input and c is free
    if ``constant`` is true, else 0. The chosen ridge has the smallest error on the held-out folds; infinity (the
    weights do not change, only constants are fitted) is one of the candidates. The error is assumed to have one minimum
    along the ridges: the search starts in the middle and follows the smaller error, so that it solves few systems.
    """
    candidates = (*sorted(ridges), float("inf"))
    folds = [fold for fold in range(sums.folds) if sums.rows[fold] > 0]
    best, before, after = len(ridges) - 1, 0.0, 0.0
    if len(folds) > 1:

        @cache
        def held_out(place: int) -> float:
            return sum(_error_on(sums, fold, weights, constant, candidates[place]) for fold in folds)

        last = len(candidates) - 1
        best = min(_minimum(held_out, last // 2, last), last, key=held_out)
        before, after = held_out(last), held_out(best)
    everything = sums.total()
    found, shift = _solved(everything, weights, constant, candidates[best])
    energy = float(
        (everything.yy - everything.y.square() / everything.rows.clamp(min=1)[:, None, None]).sum()
    )
    scale = max(energy, 1e-300)
    return Fit(found, shift, candidates[best], before / scale, after / scale)


def _minimum(value: Callable[[int], float], start: int, last: int) -> int:
    """The argument in 0 ... last at which a function that falls and then rises is smallest."""
    place = start
    for step in (-1, 1):
        while 0 <= place + step <= last and value(place + step) < value(place):
            place += step
        if place != start:
            break
    return place


def _error_on(sums: Sums, fold: int, weights: Tensor, constant: bool, ridge: float) -> float:
    """The squared error on one fold of the weights that are fitted to the other folds."""
    found, shift = _solved(sums.total(without=fold), weights, constant, ridge)
    return float(_squared_error(sums.only(fold), found, shift).sum())


def _solved(sums: Sums, weights: Tensor, constant: bool, ridge: float) -> tuple[Tensor, Tensor]:
    """W (G, O, D) and c (G, O) from the sums of a single fold."""
    count = sums.rows[0].clamp(min=1)
    mean_x, mean_y = sums.x[0] / count, sums.y[0] / count
    xx, xy = sums.xx[0] / count, sums.xy[0] / count
    if constant:
        xx = xx - mean_x[:, :, None] * mean_x[:, None, :]
        xy = xy - mean_x[:, :, None] * mean_y[:, None, :]
    found = weights
    if ridge != float("inf"):
        level = xx.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)[:, None, None] * ridge
        missing = xy - xx @ weights.mT
        damped = xx + level * torch.eye(xx.shape[1], dtype=xx.dtype, device=xx.device)
        factor, failed = torch.linalg.cholesky_ex(damped)
        change = (
            torch.linalg.solve(damped, missing) if failed.any() else torch.cholesky_solve(missing, factor)
        )
        found = weights + change.mT
    shift = mean_y - (found @ mean_x[:, :, None]).squeeze(2) if constant else torch.zeros_like(mean_y)
    return found, shift


def _squared_error(sums: Sums, weights: Tensor, constants: Tensor) -> Tensor:
    """sum |y - W x - c|^2 over the rows of a single fold, for each group and output (G, O)."""
    count = sums.rows[0]
    xx, xy, yy, x, y = sums.xx[0], sums.xy[0], sums.yy[0], sums.x[0], sums.y[0]
    explained = (weights @ xx * weights).sum(dim=2)
    crossed = (weights * xy.mT).sum(dim=2)
    shifted = (weights @ x[:, :, None]).squeeze(2)
    return yy - 2 * crossed + explained + count * constants**2 + 2 * constants * (shifted - y)
