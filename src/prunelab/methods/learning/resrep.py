"""ResRep: compactors forget channels while all other layers remember.

Ding, Hao, Tan, Liu, Han, Guo, Ding: ResRep: Lossless CNN Pruning via Decoupling Remembering and Forgetting, ICCV 2021,
arXiv:2007.03260, equations 6 to 8 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.learning.compactors import Compactors, norms_of
from prunelab.methods.learning.method import LearningMethod
from prunelab.structure import PruningPlan


class ResRep(LearningMethod):
    """Compactors Q (channels, channels), at first identities, mix the normalised channels of each group.

    All other parameters are trained by the loss alone. The gradient of row Q_j is

        m_j dL/dQ_j + strength Q_j / ||Q_j||,

    with the mask m_j = 1 at first. After ``start`` steps, every ``interval`` steps, the masks of ``granularity`` more
    rows become 0 (gradient resetting): those of smallest ||Q_j|| over all groups, until the network without these
    channels meets the budget. Rows with mask 0 shrink to zero, whatever the loss. The optimizer of the compactors is
    SGD with ``momentum`` and without weight decay, at the learning rate of the training. At the end Q is folded into
    the convolution and the normalisation, which changes nothing in evaluation mode, and the channels with mask 0 are
    removed.

    In a training that is so short that not every row could be masked in its first half, ``start`` and ``interval`` are
    shorter and masked rows shrink faster, all by the factor that makes this possible.

    Differences from the official code: it prunes the layers inside blocks. Here a group that is not made by one
    convolution, directly followed by a batch normalisation as the only reader of its outputs, has one factor for each
    channel instead of a matrix: stages, depthwise and grouped convolutions, other normalisations, or none. These
    factors scale the weights that read the channels. Stages that zero-padded shortcuts read, without weights, are not
    pruned. Masked rows shrink in proximal steps of the length strength x rate / (1 - momentum), which reach zero
    exactly; there by gradients with momentum, and rows below 1e-5 are removed. The masks are final when the budget is
    met; there they are sorted again every ``interval`` steps. It replaces each normalisation by a bias; here the
    normalisation remains, so that the pruned network can be trained further.

    Args:
        budget: how much to keep.
        strength: lambda of the penalty.
        momentum: of the compactors.
        start: steps before the first rows are masked (5 epochs in the official code).
        interval: steps from one choice of rows to the next.
        granularity: rows that are masked in each.
        settings: those of ``LearningMethod``.

    Logs learning/masked: the fraction of masked rows; learning/zero: the fraction of rows that are zero;
    learning/shortest: the smallest length of a row that is not masked.

    Raises:
        UserError: a setting out of range; level block; when learning begins, no group that can have a compactor.

    Example:
        >>> method = prunelab.ResRep(prunelab.Budget(flops=0.5), granularity=8)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'ResRep'
    """

    origin: ClassVar[Origin] = Origin(
        "Ding et al., ResRep, ICCV 2021",
        "https://arxiv.org/abs/2007.03260",
        code="DingXiaoH/ResRep",
        ours="factors for stages; schedule of short trainings",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    suited_normalisation: ClassVar[Normalisation] = "none"
    eager: ClassVar[bool] = True
    decides_untrained: ClassVar[bool] = False

    def __init__(
        self,
        budget: Budget,
        strength: float = 1e-4,
        momentum: float = 0.99,
        start: int = 3900,
        interval: int = 200,
        granularity: int = 4,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength <= 0:
            raise UserError(f"strength={strength}: rows vanish only with a penalty; use a number above 0.")
        if not 0 <= momentum < 1:
            raise UserError(f"momentum={momentum}: use at least 0 and below 1.")
        if start < 0 or min(interval, granularity) < 1:
            raise UserError(
                f"start={start}, interval={interval}, granularity={granularity}: "
                "use start=0 or more, and at least 1 for the others."
            )
        self.strength = strength
        self.momentum = momentum
        self.start, self.interval = start, interval
        self.granularity = granularity
        self._compactors: Compactors | None = None
        self._scores: dict[str, np.ndarray] = {}
        self._masks: dict[str, Tensor] = {}
        self._velocity: dict[str, Tensor] = {}
        self._complete = False

    @property
    def about(self) -> About:
        return replace(super().about, reads="compactors as they train")

    def prepare(self, context: PruningContext) -> None:
        self._compactors = Compactors(context)
        if not self._rows:
            raise UserError(
                f"ResRep finds no group of {context.name} for a compactor at levels={list(context.levels)}. Add "
                '"filter" to levels, or choose another method.'
            )
        self._scores, self._complete = {}, False
        self._masks = {name: torch.ones(len(rows)) for name, rows in self._rows.items()}
        self._velocity = {name: torch.zeros_like(rows) for name, rows in self._rows.items()}

    @property
    def _rows(self) -> Mapping[str, Tensor]:
        """The compactor of each group."""
        assert self._compactors is not None
        return self._compactors.rows

    @property
    def _haste(self) -> float:
        """The factor by which the schedule is shortened: at the middle of the training every row could be masked."""
        choices = math.ceil(sum(map(len, self._masks.values())) / self.granularity)
        return max(1.0, (self.start + self.interval * choices) / (self.steps / 2))

    def before_step(self, context: PruningContext) -> None:
        """Compactors have an update of their own (``after_step``): the optimizer sees no gradient of them."""
        self._mask_more(context)
        for name, rows in self._rows.items():
            gradient, rows.grad = rows.grad, None
            if gradient is not None:
                pull = _directions(rows).mul_(self.strength)
                gradient = torch.where(gradient.isfinite(), gradient, 0.0)
                velocity = self._velocity[name] = self._velocity[name].to(rows)
                velocity.mul_(self.momentum).add_(gradient).add_(pull)
                velocity.mul_(_column(self._masks[name], rows))

    @torch.no_grad()
    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        for name, rows in self._rows.items():
            rate = rates.get(rows, 0.0)
            rows.sub_(self._velocity[name].to(rows), alpha=rate)
            shrinkage = rate * self.strength * self._haste / (1 - self.momentum)
            lengths = norms_of(rows).clamp(min=torch.finfo(rows.dtype).tiny)
            shorter = (1 - shrinkage / lengths).clamp(min=0)
            factors = torch.where(self._masks[name].to(rows) > 0, torch.ones_like(shorter), shorter)
            rows.mul_(_column(factors, rows))

    def watch(self, context: PruningContext) -> dict[str, float]:
        masks = torch.cat([mask.cpu() for mask in self._masks.values()])
        lengths = torch.cat([norms_of(rows).float().cpu() for rows in self._rows.values()])
        return {
            "masked": float((masks == 0).float().mean()),
            "zero": float((lengths == 0).float().mean()),
            "shortest": float(lengths[masks > 0].min()),
        }

    def finish(self, context: PruningContext) -> None:
        if self._compactors is None:
            return
        for name, rows in self._rows.items():
            lengths = norms_of(rows).double().cpu().numpy()
            self._scores[name] = np.where(self._masks[name].cpu().numpy() > 0, lengths, 0.0)
        self._compactors.fold()
        self._compactors = None

    def decide(self, context: PruningContext) -> PruningPlan:
        if not self._scores:
            raise UserError("ResRep decides by learned compactors: it needs a learning fit first.")
        return keep_best(context, Scores(self._scores))

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self._masks, "velocity": self._velocity, "complete": self._complete}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._masks, self._velocity = state_dict["masks"], state_dict["velocity"]
        self._complete = state_dict["complete"]

    def _mask_more(self, context: PruningContext) -> None:
        """Choose the rows with mask 0 anew, ``granularity`` more than before, at most as many as the budget needs."""
        choices = int((self.step * self._haste - self.start) // self.interval)
        wanted = self.granularity * choices
        masked = sum(int((mask == 0).sum()) for mask in self._masks.values())
        if self._complete or wanted <= masked:
            return
        lengths = {name: norms_of(rows).double().cpu().numpy() for name, rows in self._rows.items()}
        kept = keep_best(context, Scores(lengths)).kept
        removed = sorted(
            (float(lengths[name][channel]), place, channel)
            for place, name in enumerate(lengths)
            for channel in sorted(set(range(len(lengths[name]))) - set(kept[name]))
        )
        self._complete = wanted >= len(removed)
        names = list(lengths)
        self._masks = {name: torch.ones(len(found)) for name, found in lengths.items()}
        for _, place, channel in removed[:wanted]:
            self._masks[names[place]][channel] = 0.0


def _directions(rows: Tensor) -> Tensor:
    """Each row divided by its length, 0 for a row of zeros."""
    found = rows.detach()
    lengths = _column(norms_of(found), found)
    return torch.where(lengths > 0, found / lengths.clamp(min=torch.finfo(found.dtype).tiny), 0.0)


def _column(values: Tensor, rows: Tensor) -> Tensor:
    """Values (channels,) so that they multiply the rows of a compactor."""
    values = values.to(rows)
    return values if rows.dim() == 1 else values[:, None]
