"""Variational pruning: the scale of each normalised channel is a random variable whose distribution is learned.

Zhao, Ni, Zhang, Zhao, Zhang, Tian: Variational Convolutional Neural Network Pruning, CVPR 2019, equations 4 to
11. No official code was published.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.bn_gamma import BNGamma
from prunelab.methods.learning.method import LearningMethod, TrainingMode
from prunelab.structure import PruningPlan

LEAST_MEAN = 1e-3
"""A gamma of smaller magnitude is set to this when learning begins, because beta = shift / gamma must exist."""


class VCNN(LearningMethod):
    """Every batch normalisation becomes y = g (x_hat + beta), with a saliency g ~ N(m, s^2) for each channel.

    While training, g = m + s eps with eps ~ N(0, 1) drawn anew in each forward pass; in evaluation g = m. The objective
    is loss + strength x KL, with KL = sum m^2 / (2 s^2), the divergence of N(m, s^2) from the prior N(0, s^2). The
    saliency also scales the shift, so that the output of a channel with m = 0 is zero. m and beta start from gamma and
    shift / gamma. After learning they become ordinary factors again: gamma = m, shift = m beta.

    The score is |m| over all layers (``normalisation="none"``). Channels with |m| < tau and s < theta are redundant in
    the paper, which removes them permanently at the end of each epoch and has no recovery; here they are only counted,
    and the budget determines how many channels are removed, smallest |m| first. The layers that scale a stage share one
    decision (``criterion.reduction``); the paper does not describe this case. Blocks are scored as by ``BNGamma``.

    Args:
        budget: how much to keep.
        criterion: computes the scores of a group from its means |m|.
        strength: of the KL term. 1 / training images makes the objective the evidence lower bound: 2e-5 for CIFAR.
        deviation: the initial s.
        tau, theta: limits for redundant channels: 0.02 and 0.01 in the only other implementation that was found.
        settings: those of ``LearningMethod``.

    If the loss does not restrict s, it grows while m falls, at most by the factor exp(m^2 / 2) of a small step: a
    channel can be redundant only if the initial s is well below theta.

    Logs learning/redundant: the fraction of redundant channels; learning/small: the fraction with |m| < tau and any s;
    learning/mean_p10, _p50, _p90: percentiles of |m|; learning/deviation: the median of s.

    Raises:
        UserError: strength below 0 or deviation not above 0; when learning begins, a group that no layer scales.

    Example:
        >>> method = prunelab.VCNN(prunelab.Budget(flops=0.5), epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'VCNN'
    """

    origin: ClassVar[Origin] = Origin(
        "Zhao et al., Variational pruning, CVPR 2019",
        "https://openaccess.thecvf.com/content_CVPR_2019/html/"
        "Zhao_Variational_Convolutional_Neural_Network_Pruning_CVPR_2019_paper.html",
        ours="strength, training",
    )

    suited_normalisation: ClassVar[Normalisation] = "none"
    training_mode: ClassVar[TrainingMode] = "normalisation"

    def __init__(
        self,
        budget: Budget,
        criterion: BNGamma | None = None,
        strength: float = 2e-5,
        deviation: float = 0.05,
        tau: float = 0.02,
        theta: float = 0.01,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength < 0:
            raise UserError(f"strength={strength} would reward distant distributions: use 0 or more.")
        if deviation <= 0:
            raise UserError(f"deviation={deviation}: a standard deviation must be above 0.")
        self.criterion = criterion or BNGamma()
        self.strength = strength
        self.deviation = deviation
        self.tau = tau
        self.theta = theta
        self._saliencies: list[Saliency] = []

    def prepare(self, context: PruningContext) -> None:
        self.criterion.score(context)  # raises the error for a network without factors before the training
        norms = [norm for norm in context.model.modules() if isinstance(norm, _BatchNorm) and norm.affine]
        self._saliencies = [Saliency(norm, self.deviation) for norm in norms]

    def before_step(self, context: PruningContext) -> None:
        """The gradient of strength x m^2 / (2 s^2) with respect to m and to log s."""
        for saliency in self._saliencies:
            ratio = saliency.mean.detach() / saliency.deviation.detach()
            if saliency.mean.grad is not None:
                saliency.mean.grad.add_(ratio / saliency.deviation.detach(), alpha=self.strength)
            if saliency.log_deviation.grad is not None:
                saliency.log_deviation.grad.sub_(ratio.square(), alpha=self.strength)

    def watch(self, context: PruningContext) -> dict[str, float]:
        means = torch.cat([saliency.mean.detach().abs() for saliency in self._saliencies])
        deviations = torch.cat([saliency.deviation.detach() for saliency in self._saliencies])
        low, middle, high = torch.quantile(means, means.new_tensor([0.1, 0.5, 0.9])).tolist()
        small = means < self.tau
        return {
            "small": float(small.float().mean()),
            "redundant": float((small & (deviations < self.theta)).float().mean()),
            "mean_p10": low,
            "mean_p50": middle,
            "mean_p90": high,
            "deviation": float(deviations.median()),
        }

    def finish(self, context: PruningContext) -> None:
        for saliency in self._saliencies:
            saliency.fold()
        self._saliencies = []

    def decide(self, context: PruningContext) -> PruningPlan:
        return keep_best(context, self.criterion.score(context))


class Saliency(nn.Module):
    """The scale of ``norm`` is random, and its shift a multiple of the scale, until ``fold`` is called.

    It is a parametrization of torch: ``norm.weight`` is g and ``norm.bias`` is g beta, with the same g in one forward
    pass; the trained parameters are m, log s and beta, (channels,) each.
    """

    log_deviation: nn.Parameter

    def __init__(self, norm: _BatchNorm, deviation: float) -> None:
        super().__init__()
        gamma = norm.weight.data
        gamma.copy_(torch.where(gamma < 0, -1.0, 1.0) * gamma.abs().clamp(min=LEAST_MEAN))
        norm.bias.data.div_(gamma)
        self.log_deviation = nn.Parameter(torch.full_like(gamma, math.log(deviation)))
        self.register_buffer("noise", torch.zeros_like(gamma), persistent=False)
        parametrize.register_parametrization(norm, "weight", self)
        parametrize.register_parametrization(norm, "bias", _TimesScale(norm))
        self._norm = (norm,)  # in a tuple, so that it is not registered as a submodule
        self._hook = norm.register_forward_pre_hook(lambda *_: self._draw())

    def forward(self, mean: Tensor) -> Tensor:
        return mean + self.deviation * self.noise if self.training else mean

    @property
    def mean(self) -> Tensor:
        """m, the trained parameter."""
        parametrizations: Any = self._norm[0].parametrizations
        original: Tensor = parametrizations.weight.original
        return original

    @property
    def deviation(self) -> Tensor:
        """s."""
        return self.log_deviation.exp()

    def fold(self) -> None:
        """Make ``norm`` an ordinary layer again, with gamma = m and the shift m beta."""
        (norm,) = self._norm
        self._hook.remove()
        parametrize.remove_parametrizations(norm, "bias", leave_parametrized=False)
        parametrize.remove_parametrizations(norm, "weight", leave_parametrized=False)
        norm.bias.data.mul_(norm.weight.data)

    def _draw(self) -> None:
        if self.training:
            self.noise = torch.randn_like(self.log_deviation)


class _TimesScale(nn.Module):
    """beta -> g beta."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self._norm = (norm,)

    def forward(self, shift: Tensor) -> Tensor:
        scale: Any = self._norm[0].weight
        product: Tensor = scale * shift
        return product
