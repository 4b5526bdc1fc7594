"""Soft filter pruning: filters are zeroed after each epoch and may recover in the next.

He, Kang, Dong, Fu, Yang: Soft Filter Pruning for Accelerating Deep Convolutional Neural Networks, IJCAI 2018,
arXiv:1808.06866, algorithm 1; with another criterion: He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric
Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019, arXiv:1811.00250, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import About
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Criterion
from prunelab.methods.importance.l2 import L2Norm
from prunelab.methods.importance.weights import rows
from prunelab.methods.learning.method import LearningMethod
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.structure import PruningPlan


class SoftPruning(LearningMethod):
    """Before training, and after each epoch, the filters of lowest score are set to zero; all continue to train.

    With ``L2Norm()`` this is soft filter pruning, with ``FPGM()`` and ``mask_gradients`` the schedule of the paper on
    geometric medians. Only the weights that produce a channel are zeroed, not the normalisation after them. Filters
    that are zero at the end are removed first. How many filters are zeroed follows from the budget, by default the same
    fraction of each group (``allocation="uniform"``, the paper's rule).

    Differences: the producers of a stage share one decision; the official code masks each convolution separately and
    cannot remove the masked filters of a stage. Groups are scored by ``criterion``. Momentum is kept, as in the
    official code.

    A zeroed filter whose normalisation before a ReLU has a shift of 0 or less has a zero output and no gradient, and
    stays at zero once its momentum has decayed, as in the official code. In a network with fresh weights, where all
    shifts are 0, pruning inside blocks is therefore decided at the start: use a trained network.

    Args:
        budget: how much to keep.
        criterion: computes the scores; it must read only weights.
        rate: the fraction of each group that is zeroed, int(size x rate) filters; None: the fraction that the budget
            removes. The plan meets the budget in both cases.
        mask_gradients: multiply the gradients of zeroed filters by 0, as in the official code of FPGM (soft only
            through momentum).
        from_scratch: reset all weights before learning, as in some experiments of the papers.
        allocation: see ``Allocation``; "uniform" as in the paper.
        settings: those of ``LearningMethod``.

    Logs learning/zero_filters: the fraction of zeroed filters; learning/exchanged: the fraction of these that was not
    zeroed one epoch earlier.

    Raises:
        UserError: a rate outside [0, 1), a criterion that reads images, level block.

    Example:
        >>> method = prunelab.SoftPruning(prunelab.Budget(flops=0.5), rate=0.3)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'SoftPruning'
    """

    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        budget: Budget,
        criterion: Criterion | None = None,
        rate: float | None = None,
        mask_gradients: bool = False,
        from_scratch: bool = False,
        allocation: str = "uniform",
        **settings: Any,
    ) -> None:
        super().__init__(budget, allocation=allocation, **settings)
        self.criterion = criterion or L2Norm()
        if self.criterion.reads.startswith("activations"):
            raise UserError(
                f"{type(self.criterion).__name__} reads {self.criterion.reads}; soft pruning scores weights after each "
                "epoch: choose a criterion that reads weights, such as L2Norm or FPGM."
            )
        if rate is not None and not 0 <= rate < 1:
            raise UserError(f"rate={rate} is not a fraction of filters to zero: use a number in [0, 1).")
        self.rate = rate
        self.mask_gradients = mask_gradients
        self.from_scratch = from_scratch
        self._zeroed: dict[str, list[int]] = {}
        self._exchanged = 0.0

    @property
    def about(self) -> About:
        return replace(super().about, origin=self.criterion.origin)

    def prepare(self, context: PruningContext) -> None:
        self._zeroed, self._exchanged = {}, 0.0
        if self.from_scratch and context.reference is None:  # later rounds continue from the earlier ones
            draw_afresh(context.model, self.seed)

    def before_first_step(self, context: PruningContext) -> None:
        self._zero_lowest(context)

    def before_step(self, context: PruningContext) -> None:
        if self.mask_gradients:
            for weight, dim, filters in self._zeroed_filters(context):
                if weight.grad is not None:
                    weight.grad.index_fill_(dim, filters, 0.0)

    def after_epoch(self, context: PruningContext) -> None:
        self._zero_lowest(context)

    def watch(self, context: PruningContext) -> dict[str, float]:
        zeroed = sum(map(len, self._zeroed.values()))
        size = sum(group.size for group in context.groups)
        return {"zero_filters": zeroed / size, "exchanged": self._exchanged}

    def decide(self, context: PruningContext) -> PruningPlan:
        """Zero filters are removed first, then the others by score."""
        scores = self.criterion.score(context).channels
        alive = {name: np.where(_is_zero(context, name), min(0.0, s.min()), s) for name, s in scores.items()}
        return keep_best(context, Scores(alive))

    def state_dict(self) -> dict[str, Any]:
        return {"zeroed": self._zeroed, "exchanged": self._exchanged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._zeroed, self._exchanged = state_dict["zeroed"], state_dict["exchanged"]

    def _zero_lowest(self, context: PruningContext) -> None:
        before, self._zeroed = self._zeroed, self._lowest(context)
        new = sum(len(set(filters) - set(before.get(name, ()))) for name, filters in self._zeroed.items())
        self._exchanged = new / max(1, sum(map(len, self._zeroed.values())))
        for weight, dim, filters in self._zeroed_filters(context):
            weight.data.index_fill_(dim, filters, 0.0)

    def _lowest(self, context: PruningContext) -> dict[str, list[int]]:
        """The channels of each group to be zeroed now."""
        scores = self.criterion.score(context)
        if self.rate is not None:
            return {
                name: np.sort(scores.removal_order(name)[: int(len(values) * self.rate)]).tolist()
                for name, values in scores.channels.items()
            }
        kept = keep_best(context, Scores(scores.channels, are_order=scores.are_order)).kept
        return {
            group.name: sorted(set(range(group.size)) - set(kept[group.name])) for group in context.groups
        }

    def _zeroed_filters(self, context: PruningContext) -> Iterator[tuple[Tensor, int, Tensor]]:
        """Every weight that produces zeroed channels, the dimension of its filters, and their numbers."""
        for group in context.groups:
            zeroed = self._zeroed.get(group.name, [])
            for part in group.producers:
                weight = context.model.get_parameter(part.parameter)
                yield weight, part.dim, torch.from_numpy(part.index[zeroed].flatten()).to(weight.device)


def _is_zero(context: PruningContext, name: str) -> np.ndarray:
    """For each channel of a group, whether all weights that produce it are zero."""
    producers = context.graph.group(name).producers
    return np.all([(rows(context.model, part) == 0).all(axis=1) for part in producers], axis=0)
