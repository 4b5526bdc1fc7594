"""AutoSlim: a supernet of all widths is trained, then slimmed greedily on held-out images.

Yu, Huang: AutoSlim: Towards One-Shot Architecture Search for Channel Numbers, arXiv:1903.11728, section 3; training:
Yu, Huang: Universally Slimmable Networks and Improved Training Techniques, ICCV 2019, arXiv:1903.05134. Compared with
the official code (github.com/JiahuiYu/slimmable_networks), whose slimming step fails because it reads attributes that
its networks do not have.
"""

from __future__ import annotations

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
from prunelab.methods.search.slimming_descent import Descent
from prunelab.methods.search.supernet import Supernet
from prunelab.structure import PruningPlan


class AutoSlim(LearningMethod):
    """Trains one set of weights for all widths, then removes channels where the loss of accuracy is smallest.

    - *Training* (sandwich rule): the loss of a step is the sum of the cross entropy of the full network and of the
      distillation losses (T = 1) from it into the narrowest network and into ``samples`` networks, in which every group
      has a random width. Gradients do not reach the full network through its soft targets.
    - *Greedy slimming*: starting from the full network, each group is tried at its next narrower width (``steps``
      widths per group); the one with the smallest error on held-out images takes it. This is repeated until the budget
      is met.

    The result is the network of these widths; the paper trains it from scratch (recipe.weights=fresh).

    Differences. Error is measured on held-out images, as in the paper; the official code uses one augmented training
    batch. BatchNorm statistics of each candidate are measured after training, as in the paper, on 64 held-out images;
    the code uses those of the batch. Of equal errors the one with the smaller cross entropy is chosen. The last step
    removes only as many channels as the budget requires. The paper's networks may start wider than the original (1.5
    times); here they do not. Channels are sorted by the l1 norms of their filters before training.

    Neither the training nor the descent depends on the budget. As in the paper, one descent gives the networks of
    several budgets: in a sweep over ``budget.flops`` all runs share the training, and each continues the descent where
    the others ended it.

    Args:
        budget: how much to keep.
        from_scratch: reset all weights before learning, as in the paper; False: start from the baseline.
        samples: random networks per step, in addition to the full and the narrowest one.
        steps: widths of each group in the descent; the official code removes about a twelfth at a time.
        settings: those of ``LearningMethod``.

    Logs learning/narrowest: the distillation loss of the narrowest network, averaged over the epoch.

    Raises:
        UserError: a setting out of range; level block.

    Example:
        >>> method = prunelab.AutoSlim(prunelab.Budget(flops=0.5), epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'AutoSlim'
    """

    origin: ClassVar[Origin] = Origin(
        "Yu and Huang, AutoSlim, 2019",
        "https://arxiv.org/abs/1903.11728",
        code="JiahuiYu/slimmable_networks",
        ours="training on CIFAR",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    eager: ClassVar[bool] = True
    training_mode: ClassVar[TrainingMode] = "normalisation"
    decides_untrained: ClassVar[bool] = False
    any_budget: ClassVar[bool] = True

    def __init__(
        self,
        budget: Budget,
        from_scratch: bool = False,
        samples: int = 2,
        steps: int = 12,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if samples < 0:
            raise UserError(f"samples={samples}: use 0 or more random networks per step.")
        if steps < 2:
            raise UserError(f"steps={steps}: a group needs at least 2 widths.")
        self.from_scratch, self.samples, self.steps_of_group = from_scratch, samples, steps
        self._supernet: Supernet | None = None
        self._draws = 0
        self._gaps: list[Tensor] = []

    @property
    def about(self) -> About:
        return replace(super().about, reads="weights as they train, held-out accuracy")

    @property
    def reads_validation(self) -> bool:
        return True

    def prepare(self, context: PruningContext) -> None:
        require_within_reach(context)
        if self.from_scratch:
            draw_afresh(context.model, self.seed)
        self._supernet, self._draws = Supernet.by_importance(context), 0

    def training_loss(self, context: PruningContext, batch: Batch, forward: Forward) -> Tensor:
        assert self._supernet is not None, "prepare comes first"
        supernet = self._supernet
        generator = np.random.default_rng((self.seed, self._draws))
        self._draws += 1
        random = [supernet.random(generator) for _ in range(self.samples)]
        losses = supernet.sandwich_losses(
            forward, batch, [supernet.narrowest, *random], self.label_loss(context)
        )
        self._gaps.append(losses[1].detach())
        return sum(losses[1:], start=losses[0])

    def watch(self, context: PruningContext) -> dict[str, float]:
        gaps, self._gaps = self._gaps, []
        means = gather(float(torch.stack(gaps).mean()) if gaps else 0.0)
        return {"narrowest": float(np.mean(means))}

    def decide(self, context: PruningContext) -> PruningPlan:
        if self._supernet is None:
            raise UserError("AutoSlim decides by weights that it trained: it needs a learning fit first.")
        require_within_reach(context)
        supernet = Supernet(context, self._supernet.order)
        return supernet.plan(Descent(context, supernet, self.steps_of_group)())

    def state_dict(self) -> dict[str, Any]:
        assert self._supernet is not None
        return {"order": self._supernet.order, "draws": self._draws}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        assert self.learning is not None
        self._supernet = Supernet(self.learning, state_dict["order"])
        self._draws = state_dict["draws"]
