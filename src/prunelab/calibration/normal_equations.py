"""Least squares of one layer from streamed sums: y = W x + c, with the images divided into folds.

For each group of a convolution (a depthwise convolution has one group for each channel) x (features,) are the numbers
that an output is computed from and y (outputs,) what the outputs should be. Sums over folds of images are kept apart,
so that the penalty can be chosen by the error on images that a fit has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

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
        """Sums of nothing; ``outputs`` are those of one group."""

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
        """Into how many parts the images are divided."""
        return len(self.rows)

    def add(self, inputs: Tensor, outputs: Tensor, images: int) -> None:
        """Add rows: ``inputs`` (G, rows, D) and ``outputs`` (G, rows, O) of so many images, as many rows of each.

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
        """The sums over all folds, or over all but one, as a single fold."""
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
    weights do not change, only constants are fitted) is one of the candidates.
    """
    candidates = (*ridges, float("inf"))
    held_out = torch.zeros(len(candidates), dtype=torch.float64)
    folds = [fold for fold in range(sums.folds) if sums.rows[fold] > 0]
    if len(folds) > 1:
        for fold in folds:
            rest, own = sums.total(without=fold), sums.only(fold)
            for place, ridge in enumerate(candidates):
                found, shift = _solved(rest, weights, constant, ridge)
                held_out[place] += _squared_error(own, found, shift).sum().item()
    everything = sums.total()
    best = int(held_out.argmin()) if len(folds) > 1 else candidates.index(max(ridges))
    found, shift = _solved(everything, weights, constant, candidates[best])
    energy = float(
        (everything.yy - everything.y.square() / everything.rows.clamp(min=1)[:, None, None]).sum()
    )
    scale = max(energy, 1e-300)
    return Fit(found, shift, candidates[best], float(held_out[-1]) / scale, float(held_out[best]) / scale)


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
        found = weights + torch.linalg.solve(damped, missing).mT
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
