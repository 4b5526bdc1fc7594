"""Moments of the inputs of every reader, from one pass over the calibration images in constant memory.

Least squares over any number of sampled outputs needs only E[x x^T] of the inputs x of each output, and E[x] if a
constant is fitted as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from prunelab.distributed.ranks import gather, on_all_ranks
from prunelab.errors import UserError
from prunelab.methods.context import PruningContext
from prunelab.methods.finite_pass import finite_outputs
from prunelab.methods.importance.activations import calibration_batches
from prunelab.methods.reconstruction.readers import Reader, sampled_windows
from prunelab.methods.untouched import untouched


@dataclass(frozen=True)
class Inputs:
    """The inputs of one reader, over all sampled outputs: ``second`` E[x x^T] (features, features), ``mean`` E[x]
    (features,)."""

    second: NDArray[np.float64]
    mean: NDArray[np.float64]

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Second moments about the mean."""
        return self.second - np.outer(self.mean, self.mean)


Moments = Mapping[str, Inputs]
"""Moments of each reader, by the name of its weight."""


def measure_moments(context: PruningContext, readers: Iterable[Reader], positions: int) -> Moments:
    """The moments of all readers in the full network, at ``positions`` random positions of each image.

    Raises:
        UserError: there are no calibration images.
    """
    by_reader = {reader: TwoMoments(reader.features).to(context.device) for reader in readers}
    images = on_all_ranks(lambda: _one_pass(context, by_reader, positions))
    if sum(gather(images)) == 0:
        raise UserError("The calibration loader has no images.")
    return {
        reader.parameter: Inputs(*(part.cpu().numpy() for part in metric.compute()))
        for reader, metric in by_reader.items()
    }


class TwoMoments(Metric):
    """The means (features, features) of x x^T and (features,) of x over all rows x (rows, features), in float64."""

    products: Tensor
    total: Tensor
    rows: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.add_state("products", torch.zeros(features, features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(features, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, rows: Tensor) -> None:
        doubles = rows.double()
        self.products.addmm_(doubles.T, doubles)
        self.total += doubles.sum(dim=0)
        self.rows += len(rows)

    def compute(self) -> tuple[Tensor, Tensor]:
        rows = self.rows.clamp(min=1)
        return self.products / rows, self.total / rows


def _one_pass(context: PruningContext, metrics: Mapping[Reader, TwoMoments], positions: int) -> int:
    """Update the metrics with the images of this rank; returns their number."""
    seen = 0
    for reader, metric in metrics.items():  # a rank without a batch needs states to reduce as well
        metric.update(torch.zeros(0, reader.features, device=context.device))
    with untouched(context.model, context.device, context.seed), torch.no_grad(), ExitStack() as hooks:
        for reader, metric in metrics.items():
            module = context.model.get_submodule(reader.name)
            hooks.callback(
                module.register_forward_pre_hook(_observer(metric, positions, context.seed)).remove
            )
        for images, _ in calibration_batches(context):
            finite_outputs(context, images)
            seen += len(images)
    return seen


def _observer(metric: TwoMoments, positions: int, seed: int) -> Callable[[nn.Module, Any], None]:
    def observe(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        metric.update(sampled_windows(module, given[0], positions, seed))

    return observe
