"""ImportanceMethod: score every channel once, keep the best within the budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from prunelab.errors import UserError
from prunelab.methods.about import About, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Criterion
from prunelab.methods.importance.members import score_members
from prunelab.methods.method import PruningMethod
from prunelab.structure import PruningPlan


class ImportanceMethod(PruningMethod):
    """Keep the channels (and blocks) that a criterion scores highest, within a budget.

    Args:
        criterion: computes the scores, such as ``L1Norm()``.
        budget: how much to keep.
        normalisation: how ``global`` allocation makes layers comparable, see ``Allocation``; None: the default of the
            criterion (``mean``, but ``none`` for Taylor, which normalises its scores).
        settings: those of ``PruningMethod``: levels, exclude, min_keep, divisor, images, ...; the default of
            ``allocation`` is that of the criterion (``global``, but ``per_cost`` for Fisher and OBS).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> method = prunelab.ImportanceMethod(prunelab.L2Norm(), prunelab.Budget(params=0.6))
        >>> plan = method.decide(method.context(network, torch.zeros(1, 3, 8, 8)))
        >>> prunelab.apply(network, plan)[0]
        Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """

    def __init__(
        self, criterion: Criterion, budget: Budget, normalisation: str | None = None, **settings: Any
    ) -> None:
        if not isinstance(criterion, Criterion):
            raise UserError(
                f"criterion={criterion!r} is not a criterion: give for example prunelab.L1Norm()."
            )
        settings.setdefault("allocation", criterion.allocation)
        super().__init__(budget, normalisation=normalisation or criterion.normalisation, **settings)
        require_covered(type(criterion).__name__, self.levels, criterion.covers)
        self.criterion = criterion

    @property
    def about(self) -> About:
        return self.criterion.about

    @property
    def title(self) -> str:
        return type(self.criterion).__name__

    @property
    def reads_images(self) -> bool:
        return self.criterion.reads.startswith("activations")

    def decide(self, context: PruningContext) -> PruningPlan:
        return self.scored(context)[1]

    def decider(self) -> Callable[[PruningContext], PruningPlan]:
        if type(self).decide is not ImportanceMethod.decide:  # a subclass decides otherwise
            return self.decide
        known: list[Scores] = []

        def decide(context: PruningContext) -> PruningPlan:
            if not known:
                scores, plan = self.scored(context)
                known.append(scores)
                return plan
            require_within_reach(context)
            return keep_best(context, known[0])

        return decide

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        require_within_reach(context)
        scores = score_members(self.criterion, context)
        _require_differences(self, context, scores)
        return scores, keep_best(context, scores)


def _require_differences(method: ImportanceMethod, context: PruningContext, scores: Scores) -> None:
    """Raise UserError if all channels have the same score: the order of their indices would decide."""
    values = [np.asarray(found) for found in scores.channels.values()]
    if not values or not any(len(found) > 1 for found in values):
        return
    joined = np.concatenate(values)
    if np.ptp(joined) == 0:
        raise UserError(
            f"{method.title} gives all channels of {context.name} the same score ({joined[0]:g}), so it cannot decide "
            "which ones to keep. Check the weights, the calibration images and the loss."
        )
