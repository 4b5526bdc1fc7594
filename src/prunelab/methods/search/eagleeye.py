"""EagleEye: draw many sub-networks, judge each by its accuracy after adaptive batch normalisation.

Li, Wu, Su, Wang, Lin: EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning, ECCV 2020,
arXiv:2007.02491, section 3 and algorithm 1. Where this departs from github.com/anonymous47823493/EagleEye:

- Strategies are drawn by the thousand and held against the budget with the cost model, before any network is
  touched; the official code prunes a network for each draw, counts it, and throws most away. Where hardly any
  draw meets the budget, rates are scaled until it does (``scale``).
- The budget is a limit: candidates cost between ``keep - tolerance`` and ``keep``, not ``keep +- tolerance / 2``.
- Running statistics are the mean over the calibration batches (cumulative, so the order of batches does not
  matter), not a moving average that begins with the statistics of the full network.
- Accuracy is measured on images held out of training with the test-time transform; the official code takes
  images that are trained on, too, and augments them.
- The channels of a stage are ranked by all its filters together, not by the first layer's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.distributed.messages import info
from prunelab.distributed.ranks import gather, on_all_ranks, world
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin, require_covered
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Batch, Calibration
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.criterion import Reduction
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.method import PruningMethod
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.strategies import StrategySampler
from prunelab.methods.search.widths import Widths, WidthSpace
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan
from prunelab.structure.surgery.candidate import candidate


class EagleEye(PruningMethod):
    """Of many random strategies within the budget, the one whose network is most accurate on held-out images.

    A strategy removes of each group l the fraction r_l ~ U[min_rate, min_rate + max_rate] of its channels, those
    with the smallest mean |w|. It is judged by the top-1 accuracy of the pruned network after its running
    statistics were measured anew; weights are not trained. The winner is pruned with these statistics.

    Args:
        budget: how much to keep.
        candidates: how many networks to judge.
        min_rate, max_rate: range of the rates of each group.
        tolerance: a candidate may cost up to this fraction of the full network less than the budget allows.
        draws: how many strategies to hold against the budget.
        scale: if fewer than ``candidates`` of them meet it, multiply the rates of others by the smallest number
            with which they do; False: that is an error.
        reduction: how the norms of a stage's producers are joined: mean, sum or max.
        workers: threads that judge candidates at the same time; worthwhile on many cores, or on a GPU with small
            networks.
        settings: those of ``PruningMethod``: levels (filter and stage), min_keep, divisor, images (for the running
            statistics), validation, validation_images, ...

    With several processes each judges its share of the candidates on all images. Calibration and held-out images
    are kept in memory (on the device) while candidates are judged.

    Raises:
        UserError: a setting out of range.
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
        super().__init__(budget, **settings)
        for name, number in (("candidates", candidates), ("draws", draws), ("workers", workers)):
            if number < 1:
                raise UserError(f"{name}={number}: at least 1 is needed.")
        require_covered(type(self).__name__, self.levels, self.covers)
        self.sampler = StrategySampler(candidates, min_rate, max_rate, tolerance, draws, scale)
        self.criterion = L1Norm(reduction)
        self.workers = workers

    @property
    def about(self) -> About:
        return About(
            self.origin,
            "weights, held-out accuracy",
            self.covers,
            f"{self.sampler.count} sub-networks run over calibration and held-out images",
        )

    @property
    def reads_validation(self) -> bool:
        return True

    @property
    def reconstructs(self) -> bool:
        return True

    def decide(self, context: PruningContext) -> PruningPlan:
        return self.scored(context)[1]

    def scored(self, context: PruningContext) -> tuple[Scores, PruningPlan]:
        require_within_reach(context)
        scores = self.criterion.score(context)
        space = WidthSpace.of(context, scores)
        strategies = self.sampler.draw(space)
        correct, images = on_all_ranks(
            lambda: self._judged(context, strategies, lambda widths: space.plan(widths, scores))
        )
        best = int(np.argmax(correct))  # of equals the first
        info(
            f"EagleEye: of {len(strategies)} sub-networks the best is right about {correct[best] / images:.1%} of "
            f"{images} held-out images; half of them about {np.median(correct) / images:.1%} or less."
        )
        return scores, space.plan(strategies[best], scores)

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Give the channels that stay the running statistics with which the winner was judged."""
        with untouched(context.model, context.device, context.seed):
            network = candidate(context.model, plan, share=True)
            adapt_batch_norm(network, [images for images, _ in _all(context.images(), context)])
        kept = {cut.tensor: list(cut.indices) for cut in plan.cuts if cut.dim == 0}
        found = dict(network.named_buffers())
        for name, buffer in context.model.named_buffers():
            if name in found and name.endswith(("running_mean", "running_var")):
                buffer[kept.get(name, slice(None))] = found[name].to(buffer.device)

    def _judged(
        self, context: PruningContext, strategies: Widths, plan: Callable[[Widths], PruningPlan]
    ) -> tuple[np.ndarray, int]:
        """For each strategy (B, groups) how many held-out images its network gets right: int (B,); and of how
        many."""
        rank, ranks = world()
        with untouched(context.model, context.device, context.seed):
            jury = _Jury(
                context.model,
                [images for images, _ in _all(context.images(), context)],
                _labelled(_all(context.held_out_images(), context)),
            )
            own = [plan(widths) for widths in strategies[rank::ranks]]
            if self.workers == 1:
                counts = [jury.correct(found) for found in own]
            else:
                with ThreadPoolExecutor(self.workers) as pool:
                    counts = list(pool.map(jury.correct, own))
        correct = np.empty(len(strategies), dtype=np.int64)
        for other, found in enumerate(gather(counts)):
            correct[other::ranks] = found
        return correct, jury.size


@dataclass(frozen=True)
class _Jury:
    """Judges candidates of one network on images that stay in memory."""

    model: nn.Module
    calibration: Sequence[Tensor]
    held_out: Sequence[tuple[Tensor, Tensor]]

    @property
    def size(self) -> int:
        """How many images candidates are judged on."""
        return sum(len(targets) for _, targets in self.held_out)

    @torch.no_grad()
    def correct(self, plan: PruningPlan) -> int:
        """How many held-out images the pruned network gets right."""
        network = candidate(self.model, plan, share=True)
        adapt_batch_norm(network, self.calibration)
        hits = [(network(images).argmax(dim=1) == targets).sum() for images, targets in self.held_out]
        return int(torch.stack(hits).sum())


def _all(images: Calibration, context: PruningContext) -> list[Batch]:
    """All batches, not this rank's share."""
    batches = list(replace(images, rank=0, ranks=1).batches(context.device))
    if not batches:
        raise UserError("EagleEye needs calibration and held-out images, but a loader is empty.")
    return batches


def _labelled(batches: list[Batch]) -> list[tuple[Tensor, Tensor]]:
    for _, targets in batches:
        if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
            raise UserError(
                "EagleEye judges by top-1 accuracy: held-out batches must be pairs of images (N, C, H, W) and "
                "classes, integers (N,)."
            )
    return batches
