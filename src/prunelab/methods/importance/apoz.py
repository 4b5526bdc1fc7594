"""Average fraction of non-zero activations.

Hu, Peng, Tai, Tang: Network Trimming, arXiv:1607.03250, equation 1. The paper's APoZ is the fraction of zeros, which is
high for useless channels; the score is 1 - APoZ, so that higher = keep. The paper removes channels whose APoZ is a
standard deviation above the layer's mean; here the budget sets the number of channels. The score needs activations with
exact zeros (after a ReLU): a linear bottleneck is non-zero nearly everywhere. The branch of a block before its addition
is as well, so that the level ``block`` is an error. A stage is read after the ReLUs that follow its additions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class APoZ(Criterion):
    """s_j = fraction of (image, position) pairs at which channel j is not exactly zero.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.APoZ(), prunelab.Budget(flops=1.0))
        >>> images = torch.ones(2, 1, 2, 2)
        >>> context = method.context(network, images[:1], [(images, torch.tensor([0, 1]))])
        >>> scores, _ = method.scored(context)
        >>> scores.channels["0"].tolist()
        [1.0, 0.0, 1.0]
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin("Hu et al., Network Trimming, 2016", "https://arxiv.org/abs/1607.03250")

    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    def score(self, context: PruningContext) -> Scores:
        return score_taps(context, measure(context, NonZeroFraction), self.reduction)


class NonZeroFraction(Metric):
    """Per channel the fraction (width,) of activations (N, width, positions) that are not zero."""

    nonzero: Tensor
    total: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("nonzero", torch.zeros(width, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, activations: Tensor) -> None:
        # Floats are summed several times faster than booleans; the sum is exact below 2^24 positions.
        nonzero = torch.ne(activations, 0, out=torch.empty_like(activations, dtype=torch.float32))
        self.nonzero += nonzero.sum(dim=2).long().sum(dim=0)
        self.total += activations.shape[0] * activations.shape[2]

    def compute(self) -> Tensor:
        return self.nonzero / self.total.double()
