"""Growing regularisation: a weight decay that grows for the filters to be removed, until they are almost zero.

Wang, Qin, Zhang, Fu: Neural Pruning via Growing Regularization, ICLR 2021, arXiv:2012.09243, algorithm 1.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from prunelab.errors import UserError, nearest
from prunelab.methods.about import Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.weights import rows
from prunelab.methods.learning.group_lasso import WeightGroups
from prunelab.methods.learning.method import LearningMethod
from prunelab.structure import PruningPlan

Pick = Literal["after", "before"]


class GReg(LearningMethod):
    """Loss + sum over filters j of lambda_j ||W_j||^2 / 2; lambda grows every ``interval`` steps.

    GReg-1 (``pick="before"``): the filters of smallest l1 norm are picked at the start, and their lambda grows by
    ``growth``. GReg-2 (``pick="after"``): first lambda grows by ``pick_growth`` for all filters, and norms separate by
    the curvature of the loss. When it reaches ``pick_limit`` the filters of smallest l1 norm are picked; then their
    lambda grows by ``growth``, and that of all others is ``recover``, below 0. In both, lambda of a group stops at
    ``limit``, or when the mean magnitude of its other filters is ``enough`` times that of the picked ones. The budget
    determines how many filters are picked, and the plan removes those. The gradient of the penalty is lambda_j W_j;
    the ordinary weight decay is added to it.

    Values of lambda refer to a training of ``duration`` steps. If it has fewer steps, or more, lambda runs through the
    same schedule in these and is multiplied by ``duration`` / steps, up to ``limit``, so that the weights shrink as
    much. (With the authors' values picking takes 10,000 steps, and a further 12,000 shrink a filter to a thousandth.)

    Differences from the official code: it prunes the layers inside blocks, with a rate for each stage that is set by
    hand; here ``allocation`` determines the widths, and the producers of a stage are picked together if "stage" is in
    ``levels``. It continues for a fixed number of steps after all layers have stopped; here until the training ends. It
    compares a moving average of the quotient with ``enough`` (GReg-1: in all layers together); here each group is
    compared by itself. Its criterion is the mean of the magnitudes, which is the l1 norm within a layer.

    Args:
        budget: how much to keep.
        criterion: l1 norms, with a ``reduction`` for stages.
        pick: "after" = GReg-2, "before" = GReg-1.
        growth, pick_growth: growth of lambda of picked filters, and of all filters before.
        pick_limit, limit: lambda at which filters are picked, and its largest value.
        recover: lambda of filters that are not picked, in GReg-2.
        enough: quotient of mean magnitudes at which lambda of a group stops.
        interval: steps from one growth to the next.
        duration: length of the training, in steps, to which these values refer.
        allocation: see ``Allocation``; "uniform", because the paper's rates are equal within a stage.
        settings: those of ``LearningMethod``.

    Logs learning/picked: the fraction of picked filters; learning/quotient: the smallest quotient of mean magnitudes;
    learning/penalty: the largest lambda.

    Raises:
        UserError: a setting out of range; level block.

    Example:
        >>> method = prunelab.GReg(prunelab.Budget(flops=0.5), pick="before")
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'GReg'
    """

    origin: ClassVar[Origin] = Origin(
        "Wang et al., Growing Regularization, ICLR 2021",
        "https://arxiv.org/abs/2012.09243",
        code="MingSun-Tse/Regularization-Pruning",
        ours="scaled to the length of the training",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        budget: Budget,
        criterion: L1Norm | None = None,
        pick: Pick = "after",
        growth: float = 1e-4,
        pick_growth: float = 1e-5,
        pick_limit: float = 0.01,
        limit: float = 1.0,
        recover: float = -1e-4,
        enough: float = 1000.0,
        interval: int = 10,
        duration: int = 30_000,
        allocation: str = "uniform",
        **settings: Any,
    ) -> None:
        super().__init__(budget, allocation=allocation, **settings)
        if pick not in get_args(Pick):
            raise UserError(f"pick: {pick!r} does not exist. {nearest(str(pick), get_args(Pick))}")
        if min(growth, pick_growth, pick_limit) <= 0 or limit < pick_limit:
            raise UserError(
                f"growth={growth}, pick_growth={pick_growth}, pick_limit={pick_limit}, limit={limit}: "
                "they must be above 0, and limit at least pick_limit."
            )
        if recover > 0:
            raise UserError(f"recover={recover} would shrink filters that are kept: use 0 or less.")
        if interval < 1 or duration < 1:
            raise UserError(f"interval={interval}, duration={duration}: use at least 1 step.")
        self.criterion = criterion or L1Norm()
        self.pick = pick
        self.growth, self.pick_growth = growth, pick_growth
        self.pick_limit, self.limit = pick_limit, limit
        self.recover, self.enough = recover, enough
        self.interval, self.duration = interval, duration
        self._weights: dict[str, list[WeightGroups]] = {}
        self._reset()

    def _reset(self) -> None:
        self._picked: dict[str, list[int]] | None = None
        self._stopped: dict[str, int] = {}
        self._growths = 0
        self._current: dict[str, Tensor] = {}

    def prepare(self, context: PruningContext) -> None:
        self._reset()
        self._weights = {
            group.name: [
                WeightGroups.of_channels(part, context.model.get_parameter(part.parameter))
                for part in group.producers
            ]
            for group in context.groups
            if group.producers
        }

    def before_step(self, context: PruningContext) -> None:
        growths = int(self.step / self._stretch) // self.interval + 1
        if growths != self._growths:
            self._growths = growths
            self._pick_and_stop(context)
            self._current = {}
        for name, members in self._weights.items():
            if name not in self._current:
                self._current[name] = self._penalties(context, name).to(context.device, torch.float32)
            for weights in members:
                parameter = context.model.get_parameter(weights.parameter)
                if parameter.grad is not None:
                    values = self._current[name].to(parameter)
                    parameter.grad.add_(parameter.detach() * weights.spread(values, 0.0, parameter))

    def watch(self, context: PruningContext) -> dict[str, float]:
        picked = self._picked or {}
        quotients = [self._quotient(context, name) for name, filters in picked.items() if filters]
        return {
            "picked": sum(map(len, picked.values())) / max(1, sum(group.size for group in context.groups)),
            "quotient": min(quotients, default=1.0),
            "penalty": max(float(self._penalties(context, name).max()) for name in self._weights),
        }

    def decide(self, context: PruningContext) -> PruningPlan:
        """Picked filters are removed first, then the others by l1 norm."""
        scores = {
            name: np.asarray(norms, dtype=np.float64)
            for name, norms in self.criterion.score(context).channels.items()
        }
        for name, filters in (self._picked or {}).items():
            if len(filters) and name in scores and max(filters) < len(scores[name]):
                scores[name][filters] = 0.0
        return keep_best(context, Scores(scores))

    def state_dict(self) -> dict[str, Any]:
        return {"picked": self._picked, "stopped": self._stopped, "growths": self._growths}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._picked, self._stopped = state_dict["picked"], state_dict["stopped"]
        self._growths = state_dict["growths"]

    @property
    def _stretch(self) -> float:
        """Steps of this training for one step of the schedule."""
        return 1.0 if math.isinf(self.steps) else self.steps / self.duration

    @property
    def _growths_before(self) -> int:
        """The number of growths for all filters, after which filters are picked."""
        return 0 if self.pick == "before" else math.ceil(self.pick_limit / self.pick_growth - 1e-9)

    def _pick_and_stop(self, context: PruningContext) -> None:
        """Called at each growth, before lambda is used."""
        if self._growths < self._growths_before:
            return
        if self._picked is None:
            kept = keep_best(context, Scores(self.criterion.score(context).channels)).kept
            self._picked = {
                name: sorted(set(range(context.graph.group(name).size)) - set(kept[name]))
                for name in self._weights
            }
            return
        for name, filters in self._picked.items():
            if filters and name not in self._stopped and self._quotient(context, name) > self.enough:
                self._stopped[name] = self._growths - 1

    def _penalties(self, context: PruningContext, name: str) -> Tensor:
        """lambda of each filter of a group, float64 (size,)."""
        size, before = context.graph.group(name).size, self._growths_before
        if self._growths <= before or self._picked is None:
            found = torch.full((size,), self.pick_growth * self._growths, dtype=torch.float64)
        else:
            growths = self._stopped.get(name, self._growths)
            kept = self.recover if self.pick == "after" else 0.0
            found = torch.full((size,), kept, dtype=torch.float64)
            found[self._picked[name]] = self.pick_growth * before + self.growth * (growths - before)
        return (found / self._stretch).clamp(max=self.limit)

    def _quotient(self, context: PruningContext, name: str) -> float:
        """The mean magnitude of the filters of a group that are not picked, divided by that of the picked ones."""
        assert self._picked is not None
        picked = self._picked[name]
        producers = context.graph.group(name).producers
        magnitudes = np.mean([np.abs(rows(context.model, part)).mean(axis=1) for part in producers], axis=0)
        others = np.delete(magnitudes, picked)
        largest = float(np.finfo(np.float32).max)
        smallest = float(magnitudes[picked].mean())
        return min(largest, float(others.mean()) / smallest) if smallest > 0 else largest
