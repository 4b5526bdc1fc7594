"""DMCP: widths are Markov chains that are trained, with the expected FLOPs in the loss, inside one supernet.

Guo, Wang, Li, Yan: DMCP: Differentiable Markov Channel Pruning for Neural Networks, CVPR 2020, arXiv:2005.03354.
Schedule and constants are those of the official code for ResNet-50 (github.com/Zx55/dmcp).
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.calibration import Batch
from prunelab.methods.context import PruningContext
from prunelab.methods.learning.method import Forward, LearningMethod, TrainingMode
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.methods.search.markov import MarkovWidths, grid
from prunelab.methods.search.supernet import Supernet, snapped
from prunelab.methods.search.widths import Widths
from prunelab.structure import ExpectedCost, PruningPlan

_HALVINGS = 60
_LARGEST_OFFSET = 30.0
_LOWER = 0.95
"""The loss of the expected cost E is zero for E in [0.95 T, T), where T is the target."""


class DMCP(LearningMethod):
    """Learns the probability that each step of channels of a group is kept, given that the previous step is kept.

    With ``p_k = prod_{i <= k} sigmoid(a_i)`` (see ``MarkovWidths``) the expected width is
    ``E[w] = w_0 + sum_k (w_k - w_{k-1}) p_k``, and E, the expected FLOPs, is the cost polynomial of the network at
    expected widths. Two updates alternate in every step of the second part of training (the first ``warmup`` of it
    trains weights only):

    - *Weights*: the sum of the losses of four networks: the full one (targets), the narrowest and ``samples`` random
      ones (distillation from the full one, T = 1). A random network has uniform widths with probability
      ``0.9999 ^ (step / 5)``, else widths drawn from the chains.
    - *Logits*: cross entropy of the full network whose channels are multiplied by their ``p_k``, plus ``strength``
      times ``log |E - T|`` if E < 0.95 T, ``log |E - 0.95 T|`` if E >= T, 0 between.

    The result is the network of the expected widths. The paper trains it from scratch (``recipe.weights=fresh`` where
    the recipe offers it).

    Differences from the official code. Its five sampled networks are left out: ``direct_sampling`` of its bottleneck
    draws the second width from the logits of the first, and only the expected network is used later. Its running
    statistics for evaluation are those of the last of five batches (momentum 1); here they are cumulative. The factor
    r inside the logarithm has no gradient and is dropped. Widths of the chains and of the uniform samples lie on one
    grid (``steps`` equal shares of a group, as allowed by min_keep and divisor); the official code uses two grids. The
    expected widths are rounded to the nearest allowed ones, and one number is added to all logits so that the rounded
    network meets the budget as closely as possible; the official code has no such check. Channels are sorted by the l1
    norms of their filters before training, which has no effect from scratch. Channels are scaled where they are read,
    which gives the same outputs as scaling the normalisation layers for ReLU networks, and gives all producers of a
    stage's channel one factor. Gradients of both updates are computed at the same weights (the official code updates
    the weights first).

    Args:
        budget: T, relative to the full network.
        from_scratch: reset all weights before learning, as in the paper; False: start from the baseline.
        steps: number of widths of each group.
        samples: random networks per step.
        warmup: fraction of the steps in which the logits stay 0.
        strength: weight of the loss of the expected cost.
        logit_lr, last_logit_lr: learning rate of the logits (SGD, momentum 0.9, Nesterov), constant during ``warmup``,
            then a cosine.
        settings: those of ``LearningMethod``.

    Logs learning/expected: expected cost as a fraction of the full network; learning/entropy: mean entropy of the
    decisions of the chains in bits.

    Raises:
        UserError: a setting out of range; level block.

    Example:
        >>> method = prunelab.DMCP(prunelab.Budget(flops=0.5), epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'DMCP'
    """

    origin: ClassVar[Origin] = Origin(
        "Guo et al., DMCP, CVPR 2020",
        "https://arxiv.org/abs/2005.03354",
        code="Zx55/dmcp",
        ours="training on CIFAR",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    eager: ClassVar[bool] = True
    decides_untrained: ClassVar[bool] = False
    training_mode: ClassVar[TrainingMode] = "normalisation"

    def __init__(
        self,
        budget: Budget,
        from_scratch: bool = False,
        steps: int = 10,
        samples: int = 2,
        warmup: float = 0.5,
        strength: float = 0.1,
        logit_lr: float = 0.5,
        last_logit_lr: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if steps < 2:
            raise UserError(f"steps={steps}: a group needs at least 2 widths.")
        if samples < 0:
            raise UserError(f"samples={samples}: use 0 or more random networks per step.")
        if not 0 <= warmup < 1:
            raise UserError(f"warmup={warmup} is not a fraction of the training: use a number in [0, 1).")
        if not 0 < last_logit_lr <= logit_lr:
            raise UserError(
                f"logit_lr={logit_lr}, last_logit_lr={last_logit_lr}: rates are above 0 and do not rise."
            )
        if strength < 0:
            raise UserError(f"strength={strength} would reward a missed budget: use 0 or more.")
        self.from_scratch = from_scratch
        self.steps_of_group, self.samples, self.warmup = steps, samples, warmup
        self.strength = strength
        self.logit_lr, self.last_logit_lr = logit_lr, last_logit_lr
        self._supernet: Supernet | None = None
        self._chains: MarkovWidths | None = None
        self._cost: ExpectedCost | None = None
        self._momentum: torch.Tensor | None = None
        self._draws = self._batches = 0

    @property
    def about(self) -> About:
        return replace(super().about, reads="weights and widths as they train")

    def prepare(self, context: PruningContext) -> None:
        require_within_reach(context)
        if self.from_scratch:
            draw_afresh(context.model, self.seed)
        self._set(context, Supernet.by_importance(context))
        self._draws, self._batches, self._momentum = 0, 0, None

    def _set(self, context: PruningContext, supernet: Supernet) -> None:
        self._supernet = supernet
        self._chains = MarkovWidths(
            {name: grid(allowed, self.steps_of_group) for name, allowed in supernet.space.choices.items()}
        )
        self._cost = ExpectedCost(context.graph.cost, context.budget.resource)

    def training_loss(self, context: PruningContext, batch: Batch, forward: Forward) -> Tensor:
        supernet, chains = self._parts()
        if self.progress >= self.warmup:
            self._add_logit_gradients(context, batch, forward)
        generator = np.random.default_rng((self.seed, self._draws))
        self._draws += 1
        random = [supernet.row(self._draw(chains, generator)) for _ in range(self.samples)]
        return supernet.sandwich(forward, batch, [supernet.narrowest, *random], self.label_loss(context))

    def after_step(self, context: PruningContext, rates: Any) -> None:
        _, chains = self._parts()
        if chains.logits.grad is None:
            return
        gradient = torch.stack(gather(chains.logits.grad / self._batches)).mean(dim=0)
        chains.logits.grad, self._batches = None, 0
        if (
            not gradient.isfinite().all()
        ):  # overflow in float16: the scaler skips this step of the weights as well
            return
        self._momentum = gradient if self._momentum is None else 0.9 * self._momentum + gradient
        with torch.no_grad():
            chains.logits -= self._logit_rate() * (gradient + 0.9 * self._momentum)

    def _logit_rate(self) -> float:
        past = max(0.0, (self.progress - self.warmup) / (1 - self.warmup))
        fall = (1 + math.cos(math.pi * past)) / 2
        return self.last_logit_lr + (self.logit_lr - self.last_logit_lr) * fall

    def _add_logit_gradients(self, context: PruningContext, batch: Batch, forward: Forward) -> None:
        """Add the gradient of the loss of the logits for one of the batches of an optimizer step."""
        supernet, chains = self._parts()
        images, targets = batch
        gates = {name: gate.to(images.device) for name, gate in chains.gates().items()}
        with supernet.scaled(gates):
            loss = self.label_loss(context)(forward(images), targets)
        with _no_autocast(images.device):  # torch recommends autocast for forward passes only
            (of_task,) = torch.autograd.grad(loss * self.loss_scale, chains.logits)
        total = of_task / self.loss_scale
        penalty = self._cost_loss()
        if penalty.requires_grad:
            total = total + self.strength * torch.autograd.grad(penalty, chains.logits)[0]
        self._batches += 1
        chains.logits.grad = total if chains.logits.grad is None else chains.logits.grad + total

    def _cost_loss(self) -> Tensor:
        supernet, _ = self._parts()
        expected, target = self._expected_cost(), supernet.space.target
        if expected < _LOWER * target:
            return torch.log((expected - target).abs())
        if expected >= target:
            return torch.log((expected - _LOWER * target).abs())
        return torch.zeros(())

    def _expected_cost(self) -> Tensor:
        supernet, chains = self._parts()
        assert self._cost is not None
        widths = torch.from_numpy(supernet.full).to(torch.float64)
        columns = torch.tensor([supernet.column(name) for name in chains.widths])
        return self._cost(widths.index_copy(0, columns, chains.expected()))

    def _draw(self, chains: MarkovWidths, generator: np.random.Generator) -> dict[str, int]:
        uniform = generator.random() < 0.9999 ** (self.step / 5)
        return chains.uniform(generator) if uniform else chains.sample(generator)

    def watch(self, context: PruningContext) -> dict[str, float]:
        supernet, chains = self._parts()
        chances = torch.sigmoid(chains.logits.detach())[chains.growth > 0]
        entropy = torch.distributions.Bernoulli(chances).entropy().mean() / math.log(2)
        return {
            "expected": float(self._expected_cost().detach()) / supernet.space.scale,
            "entropy": float(entropy) if chances.numel() else 0.0,
        }

    def decide(self, context: PruningContext) -> PruningPlan:
        if self._supernet is None:
            raise UserError("DMCP decides by learned probabilities: it needs a learning fit first.")
        supernet = Supernet(context, self._supernet.order)
        return supernet.plan(self._expected_widths(supernet))

    def _expected_widths(self, supernet: Supernet) -> Widths:
        """The allowed widths nearest to the expected ones, with the largest offset of all logits within the budget."""
        _, chains = self._parts()
        choices = [supernet.space.choices[name] for name in chains.widths]

        def rounded(offset: float) -> Widths:
            wanted = chains.expected(offset).detach().numpy()
            return supernet.row(dict(zip(chains.widths, snapped(wanted, choices), strict=True)))

        def fits(widths: Widths) -> bool:
            return bool(supernet.space.costs(widths[None])[0] <= supernet.space.target)

        low, high = -_LARGEST_OFFSET, _LARGEST_OFFSET
        if fits(rounded(high)):
            return rounded(high)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(rounded(middle)) else (low, middle)
        return rounded(low)

    def state_dict(self) -> dict[str, Any]:
        supernet, chains = self._parts()
        return {
            "order": supernet.order,
            "logits": chains.logits.detach().clone(),
            "momentum": self._momentum,
            "draws": self._draws,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.learning is not None
        self._set(self.learning, Supernet(self.learning, state_dict["order"]))
        _, chains = self._parts()
        with torch.no_grad():
            chains.logits.copy_(state_dict["logits"])
        self._momentum, self._draws = state_dict["momentum"], state_dict["draws"]

    def _parts(self) -> tuple[Supernet, MarkovWidths]:
        assert self._supernet is not None and self._chains is not None, "prepare comes first"
        return self._supernet, self._chains


def _no_autocast(device: torch.device) -> AbstractContextManager[Any]:
    active = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if active else nullcontext()
