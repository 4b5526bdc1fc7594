"""Group-wise brain damage: group lasso over the spatial offsets of each input channel while the network trains.

Lebedev, Lempitsky: Fast ConvNets Using Group-wise Brain Damage, CVPR 2016, arXiv:1506.02515, section 3. The
authors published the sparse convolution only; strengths and thresholds below are not theirs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Reduction, joined, warn_not_pruned
from prunelab.methods.learning.group_lasso import GroupLasso, Step, Term, WeightGroups
from prunelab.methods.learning.method import LearningMethod
from prunelab.structure import ChannelGroup, PruningPlan, Slice


class GroupBrainDamage(LearningMethod):
    """Loss + strength x sum over (i, u, v) of sqrt(sum_j W[j, i, u, v]^2), for every weight that reads channels.

    A group is one spatial offset (u, v) of one input channel i over all filters j: a row of the matrix that a
    convolution multiplies by. Groups that vanish leave a sparse kernel, with which the paper computes directly. Here
    channels are removed; a channel can be removed when all its groups (k x k in each layer that reads it) have
    vanished. Its score is the ``max`` of their norms, which is zero exactly then; ``reduction`` may be "sum" instead.

    The paper treats plain networks, one layer after the other; here all layers learn together, and a stage is scored by
    all layers that read it. The gradual variant with a truncated penalty is not included. Blocks are not covered.

    Args:
        budget: how much to keep.
        strength: lambda.
        step, snap: see ``GroupLasso``.
        reduction: how the norms of a channel's groups are combined: "max", "sum" or "mean".
        settings: those of ``LearningMethod``.

    Logs learning/shape_sparsity: the fraction of groups that are exactly zero.

    Raises:
        UserError: a strength that is not above 0.

    Example:
        >>> method = prunelab.GroupBrainDamage(prunelab.Budget(flops=0.5), strength=1e-3)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'GroupBrainDamage'
    """

    origin: ClassVar[Origin] = Origin(
        "Lebedev and Lempitsky, Group-wise Brain Damage, CVPR 2016",
        "https://arxiv.org/abs/1506.02515",
        ours="strength, training",
    )

    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        budget: Budget,
        strength: float = 1e-3,
        step: Step = "proximal",
        snap: float = 1e-4,
        reduction: Reduction = "max",
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength <= 0:
            raise UserError(f"strength={strength}: groups vanish only with a penalty; use a number above 0.")
        self.strength = strength
        self.reduction = reduction
        self.lasso = GroupLasso((), step, snap)

    def prepare(self, context: PruningContext) -> None:
        self.lasso = replace(self.lasso, terms=self._terms(context))

    def before_step(self, context: PruningContext) -> None:
        self.lasso.before_step(context.model)

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        self.lasso.after_step(context.model, rates)

    def _terms(self, context: PruningContext) -> list[Term]:
        """The groups of the network's weights with the strengths of their penalties."""
        readers = {part.parameter for group in context.groups for part in _readers(group)}
        return [
            Term(WeightGroups.of_cells(name, weight), self.strength)
            for name, weight in context.model.named_parameters()
            if name in readers
        ]

    def watch(self, context: PruningContext) -> dict[str, float]:
        return {"shape_sparsity": self.lasso.zero_fraction(context.model)}

    def decide(self, context: PruningContext) -> PruningPlan:
        scores = {}
        for group in context.groups:
            cells = [norms for part in _readers(group) for norms in self._cell_norms(context, part)]
            if cells:
                scores[group.name] = joined(cells, self.reduction)
        unread = [group.name for group in context.groups if group.name not in scores]
        warn_not_pruned(context, unread, "are not read by a layer with weights")
        return keep_best(context, Scores(scores))

    def _cell_norms(self, context: PruningContext, part: Slice) -> list[np.ndarray]:
        """The norms (size,) of the groups of each channel of ``part``, one array per offset."""
        weight = context.model.get_parameter(part.parameter).detach().double().cpu()
        norms = weight.square().sum(dim=0).sqrt().reshape(weight.shape[1], -1).numpy()
        return list(norms[part.index].reshape(len(part.index), -1).T)


def _readers(group: ChannelGroup) -> list[Slice]:
    """The weights (filters, input channels, ...) that read the channels, except those of transposed convolutions."""
    return [part for part in group.having("consumer") if part.dim == 1]
