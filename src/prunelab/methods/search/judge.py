"""Judge: scores candidate networks on held-out images. Shared by all searches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.distributed.ranks import gather, on_all_ranks, world
from prunelab.errors import UserError
from prunelab.methods.calibration import Batch, Calibration
from prunelab.methods.context import PruningContext
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan, candidate

Prepare = Callable[[nn.Module, PruningPlan], None]
Weights = Callable[[PruningPlan], Mapping[str, Tensor]]


@dataclass(frozen=True)
class Judge:
    """Top-1 accuracy, a fraction in [0, 1], of networks pruned from ``context.model``.

    Each candidate shares the weights of the full network; its BatchNorm statistics are measured on the calibration
    images first. Images are kept in memory, on the device of the context. With several ranks each judges its share of
    the candidates on all images; the scores are gathered on every rank.

    Args:
        context: the network, its calibration images and its held-out images.
        workers: threads that judge candidates at the same time.
        adapt: measure BatchNorm statistics of each candidate.
        prepare: called with each candidate before it is judged, for instance to train it. The candidate then has
            weights of its own.
        weights: plan -> parameters that replace those of the candidate, in its shapes.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
        >>> images, targets = torch.rand(8, 1, 4, 4), torch.zeros(8)
        >>> network[3].bias.data = torch.tensor([9.0, -9.0])  # every image is of class 0
        >>> method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))
        >>> context = method.context(network, images[:1], [(images, targets)], validation=[(images, targets.long())])
        >>> prunelab.Judge(context)([context.graph.plan({"0": [0, 2]})]).tolist()
        [1.0]
    """

    context: PruningContext
    workers: int = 1
    adapt: bool = True
    prepare: Prepare | None = None
    weights: Weights | None = None

    def __call__(self, plans: Sequence[PruningPlan]) -> NDArray[np.float64]:
        """The accuracy (B,) of each candidate, the same on every rank.

        Raises:
            UserError: there are no images, or held-out targets are not classes.
        """
        return on_all_ranks(lambda: self._judged(plans))

    @property
    def images(self) -> int:
        """The number of held-out images."""
        return sum(len(targets) for _, targets in self._held_out)

    @cached_property
    def _calibration(self) -> list[Tensor]:
        return calibration_images(self.context) if self.adapt else []

    @cached_property
    def _held_out(self) -> list[tuple[Tensor, Tensor]]:
        return held_out_batches(self.context)

    def _judged(self, plans: Sequence[PruningPlan]) -> NDArray[np.float64]:
        # All ranks train a candidate together; without training, each rank judges different candidates.
        rank, ranks = world() if self.prepare is None else (0, 1)
        with untouched(self.context.model, self.context.device, self.context.seed):
            own = plans[rank::ranks]
            if self.workers == 1:
                found = [self._accuracy(plan) for plan in own]
            else:
                with ThreadPoolExecutor(self.workers) as pool:
                    found = list(pool.map(self._accuracy, own))
        scores = np.empty(len(plans), dtype=np.float64)
        for other, values in enumerate(gather(found)[:ranks]):
            scores[other::ranks] = values
        return scores

    def _accuracy(self, plan: PruningPlan) -> float:
        """The fraction of held-out images that the candidate classifies correctly."""
        network = candidate(self.context.model, plan, share=self.prepare is None)
        if self.weights is not None:
            parameters = dict(network.named_parameters())
            for name, tensor in self.weights(plan).items():
                parameters[name].data = tensor
        if self.prepare is not None:
            network.requires_grad_(True)
            with torch.enable_grad():
                self.prepare(network, plan)
            network.to(self.context.device).eval()
        with torch.no_grad():
            if self.adapt:
                adapt_batch_norm(network, self._calibration)
            hits = [(network(images).argmax(dim=1) == targets).sum() for images, targets in self._held_out]
            return int(torch.stack(hits).sum()) / self.images


def all_batches(images: Calibration, context: PruningContext) -> list[Batch]:
    """All batches of the loader, not the share of this rank.

    Raises:
        UserError: the loader is empty.
    """
    batches = list(replace(images, rank=0, ranks=1).batches(context.device))
    if not batches:
        raise UserError(f"{context.method} needs calibration and held-out images, but a loader is empty.")
    return batches


def calibration_images(context: PruningContext) -> list[Tensor]:
    """All calibration images, in batches (N, C, H, W).

    Raises:
        UserError: there are none.
    """
    return [images for images, _ in all_batches(context.images(), context)]


def held_out_batches(context: PruningContext) -> list[tuple[Tensor, Tensor]]:
    """All held-out images (N, C, H, W) and their classes (N,), in batches.

    Raises:
        UserError: there are none, or targets are not classes.
    """
    batches = all_batches(context.held_out_images(), context)
    for _, targets in batches:
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
            raise UserError(
                f"{context.method} compares networks by top-1 accuracy: held-out batches must be pairs of images "
                "(N, C, H, W) and classes, integers (N,)."
            )
    return batches
