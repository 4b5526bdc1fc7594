"""Sparse learning of groups: a stronger weight decay for the channels of small group norm while the network trains.

Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900, equations 4 and 5.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.depgraph import DepGraph, group_weights
from prunelab.methods.learning.group_lasso import WeightGroups
from prunelab.methods.learning.method import LearningMethod
from prunelab.structure import PruningPlan

SMALL = 0.1
"""Channels with a smaller norm, relative to the largest of their group, count as small in the log."""


class DepGraphSparse(LearningMethod):
    """Loss + strength x sum over groups and channels k of gamma_k ||w_k||^2 / 2, w_k all weights of channel k.

    The weights are those of ``DepGraph``: they produce or read the channel, or scale it in between. With
    I_k = ||w_k||,

        gamma_k = 2^(alpha (I_max - I_k) / (I_max - I_min)),

    where I_max and I_min are those of the group: the channel of smallest norm has 2^alpha times the decay of that of
    largest norm. gamma is computed anew in each step and is a constant in the gradient, strength gamma_k w_k, which is
    added to that of the loss. Then the channels of smallest ``criterion`` are removed, with scores divided by the
    largest of their group (``normalisation="max"``).

    Differences: a group whose norms are all equal has gamma = 1 (in the authors' code NaN). That code keeps the network
    with the best accuracy on the test set; here the last one is used. See ``DepGraph`` for the number of steps in which
    channels are removed.

    Args:
        budget: how much to keep.
        criterion: computes the scores at the end.
        strength: lambda: 5e-4 (CIFAR) and 1e-4 (ImageNet) in the authors' code.
        alpha: range of gamma in powers of 2.
        settings: those of ``LearningMethod``. The authors' code trains without weight decay in this phase.

    Logs learning/small: the fraction of channels whose norm is below 0.1 of the largest of their group.

    Raises:
        UserError: strength not above 0, or alpha below 0.

    Example:
        >>> method = prunelab.DepGraphSparse(prunelab.Budget(flops=0.5))
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'DepGraphSparse'
    """

    origin: ClassVar[Origin] = DepGraph.origin
    covers: ClassVar[tuple[str, ...]] = DepGraph.covers
    suited_normalisation: ClassVar[Normalisation] = "max"

    def __init__(
        self,
        budget: Budget,
        criterion: DepGraph | None = None,
        strength: float = 5e-4,
        alpha: float = 4.0,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength <= 0:
            raise UserError(f"strength={strength}: groups vanish only with a penalty; use a number above 0.")
        if alpha < 0:
            raise UserError(
                f"alpha={alpha} would protect the smallest channels: use 0 (equal decay) or more."
            )
        self.criterion = criterion or DepGraph()
        self.strength = strength
        self.alpha = alpha
        self._groups: list[list[WeightGroups]] = []

    def prepare(self, context: PruningContext) -> None:
        self._groups = [
            [
                WeightGroups.of_channels(part, context.model.get_parameter(part.parameter))
                for part in group_weights(group)
            ]
            for group in context.groups
        ]

    def before_step(self, context: PruningContext) -> None:
        for members in filter(None, self._groups):
            strengths = self.strength * self._gamma(_norms(context, members))
            for weights in members:
                parameter = context.model.get_parameter(weights.parameter)
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach() * weights.spread(strengths, 0.0, parameter))

    def watch(self, context: PruningContext) -> dict[str, float]:
        found = [_norms(context, members) for members in self._groups if members]
        relative = torch.cat([norms / norms.max().clamp(min=torch.finfo().tiny) for norms in found])
        return {"small": float((relative < SMALL).float().mean())}

    def decide(self, context: PruningContext) -> PruningPlan:
        return keep_best(context, self.criterion.score(context))

    def _gamma(self, norms: Tensor) -> Tensor:
        spread = norms.max() - norms.min()
        return torch.exp2(
            self.alpha * (norms.max() - norms) / torch.where(spread > 0, spread, torch.ones_like(spread))
        )


def _norms(context: PruningContext, members: list[WeightGroups]) -> Tensor:
    """||w_k|| of each channel over all tensors of a group, float32 (size,)."""
    squares = [
        weights.norms(context.model.get_parameter(weights.parameter)).float().square() for weights in members
    ]
    return torch.stack(squares).sum(dim=0).sqrt()
