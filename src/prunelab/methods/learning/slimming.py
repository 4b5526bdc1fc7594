"""Network slimming: an l1 penalty on the scale factors of the normalisation layers while the network trains.

Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming, ICCV
2017, arXiv:1708.06519, equation 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.bn_gamma import BNGamma
from prunelab.methods.learning.method import LearningMethod
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.structure import PruningPlan

SMALL = 1e-2
"""Factors below this count as switched off in the log."""


class Slimming(LearningMethod):
    """Loss + strength x sum of |gamma| over all batch normalisation layers; then one threshold on |gamma|.

    The penalty is a subgradient, strength x sign(gamma), added to the gradient of gamma, as in the official code;
    gamma is subject to weight decay as well. The plan is that of ``BNGamma`` with one threshold over all layers
    (``normalisation="none"``), which the budget sets.

    Differences: every group keeps at least ``min_keep`` of its channels (the official code may empty a layer). The
    paper's pre-activation networks select channels where a block reads the shortcut; here the layers that scale a stage
    share one decision (``criterion.reduction``); without "stage" in ``levels`` stages are not pruned. Blocks are scored
    as by ``BNGamma``; the paper removes none. The paper trains from scratch; here learning continues from the trained
    network, unless ``from_scratch``.

    Args:
        budget: how much to keep.
        criterion: computes the scores of a group from its factors.
        strength: lambda: 1e-4 (VGG), 1e-5 (ResNet, DenseNet, and ImageNet) in the paper.
        from_scratch: reset all weights before learning, with every gamma at ``initial_gamma``.
        initial_gamma: 0.5 in the paper.
        settings: those of ``LearningMethod``.

    Logs learning/gamma_p10, _p50 and _p90: percentiles of |gamma|; learning/gamma_small: the fraction below 0.01.

    Raises:
        UserError: strength below 0; when learning begins, a group that no layer scales (see ``BNGamma.missing``).

    Example:
        >>> method = prunelab.Slimming(prunelab.Budget(flops=0.5), strength=1e-4)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'Slimming'
    """

    origin: ClassVar[Origin] = Origin(
        "Liu et al., Network Slimming, ICCV 2017",
        "https://arxiv.org/abs/1708.06519",
        code="Eric-mingjie/network-slimming",
    )

    suited_normalisation: ClassVar[Normalisation] = "none"

    def __init__(
        self,
        budget: Budget,
        criterion: BNGamma | None = None,
        strength: float = 1e-4,
        from_scratch: bool = False,
        initial_gamma: float = 0.5,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength < 0:
            raise UserError(f"strength={strength} would let the factors grow: use 0 or more.")
        if initial_gamma <= 0:
            raise UserError(
                f"initial_gamma={initial_gamma}: factors must start above 0 (at 0.5 in the paper)."
            )
        self.criterion = criterion or BNGamma()
        self.strength = strength
        self.from_scratch = from_scratch
        self.initial_gamma = initial_gamma

    def prepare(self, context: PruningContext) -> None:
        self.criterion.score(context)  # raises the error for a network without factors before the training
        if self.from_scratch and context.reference is None:  # later rounds continue from the earlier ones
            draw_afresh(context.model, self.seed)
            for gamma in gammas(context.model):
                gamma.data.fill_(self.initial_gamma)

    def before_step(self, context: PruningContext) -> None:
        for gamma in gammas(context.model):
            if gamma.grad is not None:
                gamma.grad.add_(gamma.detach().sign(), alpha=self.strength)

    def watch(self, context: PruningContext) -> dict[str, float]:
        magnitudes = torch.cat([gamma.detach().abs().float() for gamma in gammas(context.model)])
        levels = torch.tensor([0.1, 0.5, 0.9], device=magnitudes.device)
        low, middle, high = torch.quantile(magnitudes, levels).tolist()
        small = float((magnitudes < SMALL).float().mean())
        return {"gamma_p10": low, "gamma_p50": middle, "gamma_p90": high, "gamma_small": small}

    def decide(self, context: PruningContext) -> PruningPlan:
        return keep_best(context, self.criterion.score(context))


def gammas(network: nn.Module) -> list[Tensor]:
    """The scale factors of every batch normalisation layer."""
    return [
        norm.weight for norm in network.modules() if isinstance(norm, _BatchNorm) and norm.weight is not None
    ]
