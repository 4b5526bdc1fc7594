"""Network Adjustment: channels are moved from groups with a low FLOPs utilisation to groups with a high one.

Chen, Niu, Xie, Liu, Wei, Tian: Network Adjustment: Channel Search Guided by FLOPs Utilization Ratio, CVPR 2020,
arXiv:2004.02767. Compared with the official code (github.com/danczs/NetworkAdjustment).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.context import PruningContext
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.judge import Judge, calibration_images, held_out_batches
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.utilisation import utilisation
from prunelab.methods.search.widths import Candidate, Widths, WidthSpace
from prunelab.structure import PruningPlan

if TYPE_CHECKING:
    from prunelab.training import Training


class NetworkAdjustment(SearchMethod):
    """Starts from the uniformly scaled network of the budget and adjusts its widths ``iterations`` times.

    An iteration has three steps:

    - *Train* the current network from scratch, and measure the FLOPs utilisation ratio of each group on held-out
      images: ``FUR_l = 1/T sum_t [L(dropout of rate d_l in group l) - L]``, where the rates make all groups lose the
      same expected FLOPs (see ``utilisation``).
    - *Adjust*: with K = ``groups - groups_decay i`` in iteration i, the K groups of largest ratio become wider and the
      K groups of smallest ratio narrower, the r-th of each by ``(step - step_decay r) n_l^0`` channels, r = 0, 1, ...,
      where ``n_l^0`` is the width in the first network.
    - *Scale* all widths by one factor, the largest one with which the network meets the budget.

    The result is the network of highest held-out accuracy among the trained ones, of equal ones the last. The paper
    trains it again from scratch on all images (recipe.weights=fresh).

    Differences. In the paper a layer can become wider than in the original network; here a group has at most its full
    width, because networks are only pruned. A group that is tied by shortcuts (a stage) has one width;
    the paper pads shortcuts with zeros, so that each layer has its own. Channels are dropped where they are read, for a
    stage in the sum of its shortcuts, not in each branch. K is at most half of the groups, so that a single group is
    scaled to the budget. The drop rate of a group with few FLOPs is limited to 0.5, and its ratio scaled accordingly.
    FLOPs never exceed the budget; the official code accepts 1 % more or less. Held-out images are not augmented.
    Candidates are trained without channel dropout, which the official code raises to 0.05. The smallest width is that
    of min_keep; in the official code it is 4. The official code does not choose the iteration.

    Args:
        budget: how much to keep.
        training: of each network, from scratch. None (an addition, for a quick search): networks inherit the weights of
            the full one, and the BatchNorm statistics are measured again on the calibration images.
        iterations: number of networks.
        groups, groups_decay: parameters of K; see above.
        step, step_decay: fractions of the first width; see above.
        drop_rate: rate of a group of mean cost in the measurement of the ratio.
        repeats: T, passes over the held-out images for each group.
        settings: those of ``SearchMethod``.

    Raises:
        UserError: a setting out of range; candidates cannot be trained (in your own Trainer).

    Example:
        >>> method = prunelab.NetworkAdjustment(prunelab.Budget(flops=0.5), iterations=3)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'NetworkAdjustment'
    """

    origin: ClassVar[Origin] = Origin(
        "Chen et al., Network Adjustment, CVPR 2020",
        "https://arxiv.org/abs/2004.02767",
        code="danczs/NetworkAdjustment",
        ours="no group wider than in the full network",
    )

    def __init__(
        self,
        budget: Budget,
        training: Training | None = None,
        iterations: int = 10,
        groups: float = 6.0,
        groups_decay: float = 0.5,
        step: float = 0.15,
        step_decay: float = 0.01,
        drop_rate: float = 0.05,
        repeats: int = 5,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if iterations < 1 or repeats < 1:
            raise UserError(f"iterations={iterations}, repeats={repeats}: at least 1 is needed of both.")
        if groups < 1 or groups_decay < 0:
            raise UserError(f"groups={groups}, groups_decay={groups_decay}: use 1 or more, and no rise.")
        if not 0 < step < 1 or step_decay < 0:
            raise UserError(
                f"step={step}, step_decay={step_decay}: use a fraction of the channels, and no rise."
            )
        if not 0 < drop_rate < 1:
            raise UserError(f"drop_rate={drop_rate} is not a probability between 0 and 1.")
        if self.workers > 1:
            raise UserError(
                f"workers={self.workers}: networks are measured one after another, so use workers=1."
            )
        self.training = training
        self.iterations, self.repeats = iterations, repeats
        self.groups, self.groups_decay = groups, groups_decay
        self.step, self.step_decay, self.drop_rate = step, step_decay, drop_rate

    @property
    def about(self) -> About:
        epochs = f", each trained for {self.training.epochs} epochs" if self.training else ""
        cost = f"{self.iterations} networks{epochs}, {self.repeats} passes over held-out images per group"
        return replace(super().about, reads="trained candidates, held-out loss", cost=cost)

    def judge(self, context: PruningContext) -> Judge:
        return Judge(
            context, adapt=False, prepare=lambda network, plan: self._measure(context, network, plan)
        )

    def _measure(self, context: PruningContext, network: nn.Module, plan: PruningPlan) -> None:
        """Train a network and store its ratios."""
        if self.training is None:
            adapt_batch_norm(network, calibration_images(context))
        else:
            draw_afresh(network, self.seed)
            name = f"candidate-{plan.digest()[:8]}"
            context.train(network, self.training.epochs, self.training, name)
        network.to(context.device).eval()
        ratios = utilisation(
            self._space, network, plan, held_out_batches(context), self.drop_rate, self.repeats
        )
        row = tuple(plan.widths.get(group.name, (0, group.size))[1] for group in context.graph.groups)
        self._ratios[row] = [ratios.get(name, np.nan) for name in self._space.choices]

    @property
    def planned(self) -> int | None:
        return self.iterations

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self._space = space
        self._columns = [[group.name for group in context.graph.groups].index(name) for name in space.choices]
        self._first = space.scaled_to_budget(np.array([group.size for group in context.graph.groups]))
        self._row, self._iteration = self._first, 0
        self._ratios: dict[tuple[int, ...], list[float]] = {}

    def ask(self) -> Sequence[Candidate]:
        return [] if self._iteration == self.iterations else [Candidate(tuple(self._row.tolist()))]

    def tell(self, candidate: Candidate, score: float) -> None:
        ratios = np.array(self._ratios[candidate.widths])
        count = min(
            max(round(self.groups - self.groups_decay * self._iteration), 0),
            int(np.isfinite(ratios).sum()) // 2,
        )
        steps = np.maximum(self.step - self.step_decay * np.arange(count), 0)
        row = self._row.copy()
        row[self._columns] = adjusted(row[self._columns], self._first[self._columns], ratios, steps)
        self._row = self._space.scaled_to_budget(row)
        self._iteration += 1

    def chosen(self, history: dict[Candidate, float]) -> Candidate:
        best = max(history.values())
        return [each for each, score in history.items() if score == best][-1]

    def state_dict(self) -> dict[str, Any]:
        return {
            "iteration": self._iteration,
            "row": self._row.tolist(),
            "ratios": [(list(row), ratios) for row, ratios in self._ratios.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._iteration, self._row = state["iteration"], np.array(state["row"], dtype=np.int64)
        self._ratios = {tuple(row): list(ratios) for row, ratios in state["ratios"]}


def adjusted(
    widths: Widths, first: Widths, ratios: NDArray[np.float64], steps: NDArray[np.float64]
) -> Widths:
    """Widths after the groups of largest ratios became wider and those of smallest ratios narrower.

    The group with the r-th largest ratio gets ``round(n + steps[r] n^0)`` channels, the one with the r-th smallest
    ``round(n - steps[r] n^0)``, at least 1.

    Args:
        widths, first: n and n^0, (groups,).
        ratios: (groups,); groups without one (NaN) do not change.
        steps: fractions, (K,), for K at most half of the groups that have a ratio.
    """
    order = np.argsort(ratios, kind="stable")  # NaN comes last
    order = order[: int(np.isfinite(ratios).sum())]
    new = widths.astype(np.float64)
    for rank, step in enumerate(steps):
        widest, narrowest = order[-1 - rank], order[rank]
        new[widest] += step * first[widest]
        new[narrowest] -= step * first[narrowest]
    return np.maximum(np.rint(new), 1).astype(np.int64)
