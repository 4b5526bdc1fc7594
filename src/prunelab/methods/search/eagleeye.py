"""EagleEye: draw many sub-networks and judge each by its accuracy after adaptive batch normalisation.

Li, Wu, Su, Wang, Lin: EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning, ECCV 2020,
arXiv:2007.02491, section 3 and algorithm 1. Differences from github.com/anonymous47823493/EagleEye:

- Thousands of strategies are drawn and compared with the budget by the cost model, without pruning a network; the
  official code prunes and measures a network for each draw, and discards most. If too few draws meet the budget, rates
  are scaled until they do (``scale``).
- The budget is a limit: candidates cost between ``keep - tolerance`` and ``keep``, not ``keep +- tolerance / 2``.
- Running statistics are the mean over the calibration batches (cumulative, so the order of batches has no effect), not
  a moving average that begins with the statistics of the full network.
- Accuracy is measured on held-out images with the test-time transform; the official code uses augmented images that are
  also trained on.
- The channels of a stage are ranked by all its filters together, not by the first layer's.
"""

from __future__ import annotations

from typing import Any, ClassVar

from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Reduction
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.members import score_members
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.judge import calibration_images
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.strategies import StrategySampler
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.methods.search.write_back import write_back
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan, candidate


class EagleEye(SearchMethod):
    """Draws many random strategies within the budget; the one whose network is most accurate on held-out images wins.

    A strategy removes of each group l the fraction r_l ~ U[min_rate, min_rate + max_rate] of its channels, those
    with the smallest mean |w|. It is judged by the top-1 accuracy of the pruned network after its running
    statistics were measured again; weights are not trained. The winner is pruned with these statistics.

    Args:
        budget: how much to keep.
        candidates: how many networks to judge.
        min_rate, max_rate: range of the rates of each group.
        tolerance: a candidate may cost up to this fraction of the full network less than the budget allows.
        draws: how many strategies to compare with the budget.
        scale: if fewer than ``candidates`` of them meet it, multiply the rates of others by the smallest number with
            which they do; False: raise an error.
        reduction: how the norms of a stage's producers are joined: mean, sum or max.
        workers: threads that judge candidates at the same time; worthwhile on many cores, or on a GPU with small
            networks.
        settings: those of ``PruningMethod``: levels (filter and stage), min_keep, divisor, images (for the running
            statistics), validation, validation_images, ...

    With several processes each judges its share of the candidates on all images. Calibration and held-out images
    are kept in memory (on the device) while candidates are judged.

    Raises:
        UserError: a setting out of range.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.EagleEye(prunelab.Budget(params=0.5), candidates=4)
        >>> context = method.context(network, images[:1], [(images, targets)], validation=[(images, targets)])
        >>> plan = method.decide(context)
        >>> len(plan.kept["0"])
        3
    """

    origin: ClassVar[Origin] = Origin(
        "Li et al., EagleEye, ECCV 2020",
        "https://arxiv.org/abs/2007.02491",
        code="anonymous47823493/EagleEye",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def __init__(
        self,
        budget: Budget,
        candidates: int = 50,
        min_rate: float = 0.0,
        max_rate: float = 0.7,
        tolerance: float = 0.01,
        draws: int = 100_000,
        scale: bool = True,
        reduction: Reduction = "mean",
        workers: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(budget, workers, **settings)
        for name, number in (("candidates", candidates), ("draws", draws)):
            if number < 1:
                raise UserError(f"{name}={number}: at least 1 is needed.")
        self.sampler = StrategySampler(candidates, min_rate, max_rate, tolerance, draws, scale)
        self.criterion = L1Norm(reduction)

    @property
    def about(self) -> About:
        return About(
            self.origin,
            "weights, held-out accuracy",
            self.covers,
            f"{self.sampler.count} sub-networks run over calibration and held-out images",
        )

    @property
    def reconstructs(self) -> bool:
        return True

    @property
    def planned(self) -> int | None:
        return self.sampler.count

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self._drawn: list[Candidate] = []
        self._space = space

    def ask(self) -> list[Candidate]:
        if self._drawn:
            return []
        self._drawn = [Candidate(tuple(row.tolist())) for row in self.sampler.draw(self._space)]
        return self._drawn

    def tell(self, candidate: Candidate, score: float) -> None:
        """Nothing to do: the best of all candidates is chosen at the end."""

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": bool(self._drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["drawn"]:
            self.ask()

    def ranking(self, context: PruningContext) -> Scores:
        return score_members(self.criterion, context)

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Restore the running statistics with which the winner was judged."""
        with untouched(context.model, context.device, context.seed):
            network = candidate(context.model, plan, share=True)
            adapt_batch_norm(network, calibration_images(context))
        write_back(context.model, plan, network, only=("running_mean", "running_var"))
