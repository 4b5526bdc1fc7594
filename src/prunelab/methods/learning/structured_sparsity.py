"""Structured sparsity learning: group lasso on filters, channels and whole layers while the network trains.

Wen, Wu, Wang, Chen, Li: Learning Structured Sparsity in Deep Neural Networks, NIPS 2016, arXiv:1608.03665,
equations 2 to 5.
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
from prunelab.methods.importance.criterion import Reduction, joined
from prunelab.methods.learning.group_lasso import GroupLasso, Step, Term, WeightGroups
from prunelab.methods.learning.method import LearningMethod
from prunelab.structure import PruningPlan, ResidualBlock, Slice


class SSL(LearningMethod):
    """Loss + filters x sum_j ||W_j|| + channels x sum_i ||W_:,i|| + depth x sum_l ||W_l||, plain l2 norms.

    The first sum is over the filters that produce a removable channel, the second over the weights of the next layers
    that read one, the third over the convolutions inside a removable block (if "block" is in ``levels``). As in the
    official code no term is weighted by the size of its groups.

    A channel is superfluous if its filter or the weights that read it are zero: its score is the smaller of the two
    norms. All of several producers or readers must be zero, so norms are joined by ``reduction`` first. A
    block's score is the smallest norm of its convolutions.

    Differences: the proximal step of the penalty replaces the official subgradient, after which every weight below 1e-4
    is set to 0 (as with ``step="subgradient"``). The paper regularises only channels inside blocks; here each weight
    that produces or reads a stage has groups of its own, and the stage shares one decision. Its solver for AlexNet has
    a weight for each layer; here all are equal. The output of a zero filter is the shift of the normalisation after it,
    which is removed with the channel; the recovery compensates for that.

    Args:
        budget: how much to keep.
        filters, channels, depth: strengths of the three sums; 0 = off.
        step, snap: see ``GroupLasso``.
        reduction: "max" or "sum" (or "mean") of the norms of several producers or readers.
        settings: those of ``LearningMethod``.

    Logs learning/zero_groups: the fraction of all groups that are exactly zero.

    Raises:
        UserError: a negative strength, or no penalty at all.

    Example:
        >>> method = prunelab.SSL(prunelab.Budget(flops=0.5), depth=0.01)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'SSL'
    """

    origin: ClassVar[Origin] = Origin(
        "Wen et al., SSL, NIPS 2016", "https://arxiv.org/abs/1608.03665", code="wenwei202/caffe"
    )

    def __init__(
        self,
        budget: Budget,
        filters: float = 3e-3,
        channels: float = 3e-3,
        depth: float = 7e-3,
        step: Step = "proximal",
        snap: float = 1e-4,
        reduction: Reduction = "max",
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if min(filters, channels, depth) < 0 or filters + channels + depth == 0:
            raise UserError(
                f"filters={filters}, channels={channels}, depth={depth}: "
                "strengths of a penalty must be 0 or more, and not all 0."
            )
        self.filters = filters
        self.channels = channels
        self.depth = depth
        self.reduction = reduction
        self.lasso = GroupLasso((), step, snap)

    def prepare(self, context: PruningContext) -> None:
        self.lasso = replace(self.lasso, terms=self._terms(context))

    def before_step(self, context: PruningContext) -> None:
        self.lasso.before_step(context.model)

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        self.lasso.after_step(context.model, rates)

    def watch(self, context: PruningContext) -> dict[str, float]:
        return {"zero_groups": self.lasso.zero_fraction(context.model)}

    def decide(self, context: PruningContext) -> PruningPlan:
        channels = {
            group.name: _smaller(
                self._norms(context, group.producers),
                self._norms(context, group.having("consumer")),
                group.size,
            )
            for group in context.groups
        }
        blocks = {
            block.name: min(float(context.model.get_parameter(name).detach().norm()) for name in inside)
            for block in context.blocks
            if (inside := _convolutions(context, block))
        }
        return keep_best(context, Scores(channels, blocks))

    def _terms(self, context: PruningContext) -> list[Term]:
        """The groups of the network's weights with the strengths of their penalties."""
        sides = [(self.filters, "producer"), (self.channels, "consumer")]
        terms = [
            Term(WeightGroups.of_channels(part, context.model.get_parameter(part.parameter)), strength)
            for strength, role in sides
            if strength
            for group in context.groups
            for part in group.having(role)
        ]
        if self.depth:
            terms += [
                Term(WeightGroups.of_all(name, context.model.get_parameter(name)), self.depth)
                for block in context.blocks
                for name in _convolutions(context, block)
            ]
        return terms

    def _norms(self, context: PruningContext, parts: tuple[Slice, ...]) -> np.ndarray | None:
        """The norm (size,) of each channel's weights in ``parts``, joined; None without parts."""
        members = []
        for part in parts:
            weight = context.model.get_parameter(part.parameter).detach().double().cpu()
            members.append(WeightGroups.of_channels(part, weight).norms(weight).numpy())
        return joined(members, self.reduction) if members else None


def _smaller(made: np.ndarray | None, read: np.ndarray | None, size: int) -> np.ndarray:
    sides = [side for side in (made, read) if side is not None]
    return np.minimum.reduce(sides) if sides else np.ones(size)


def _convolutions(context: PruningContext, block: ResidualBlock) -> list[str]:
    """The convolutions (and matrices) inside a block."""
    return [
        name
        for name, parameter in context.model.named_parameters()
        if name.startswith(f"{block.name}.") and parameter.dim() > 1
    ]
