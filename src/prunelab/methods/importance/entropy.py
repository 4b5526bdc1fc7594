"""Entropy of the pooled activations.

Luo, Wu: An Entropy-based Pruning Method for CNN Compression, arXiv:1706.05791, section 3.2. The paper states neither
the number of bins nor the images: 100 bins and training images are our choice. It prunes layer by layer with
fine-tuning in between; here all layers are scored at once. Activations are read after the ReLU. The branch of a block,
which the paper does not score, is read before its addition, possibly without a ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class Entropy(Criterion):
    """s_j = -sum_i p_i log p_i, p_i the fraction of images whose spatial mean of channel j (H, W) falls into bin i.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        bins: equal bins between the channel's smallest and largest mean over the images. The entropy is at most
            log min(images, bins): give many more images than bins.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.Entropy(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin(
        "Luo and Wu, Entropy-based pruning, 2017", "https://arxiv.org/abs/1706.05791", ours="number of bins"
    )

    bins: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bins < 2:
            raise UserError(f"bins={self.bins}: an entropy needs at least 2 bins.")

    def score(self, context: PruningContext) -> Scores:
        return score_taps(
            context, measure(context, lambda width: PooledEntropy(width, self.bins)), self.reduction
        )


class PooledEntropy(Metric):
    """Per channel the entropy (width,) in nats of the spatial means of activations (N, width, positions)."""

    pooled: list[Tensor]

    def __init__(self, width: int, bins: int) -> None:
        super().__init__()
        self.bins = bins
        self.add_state("pooled", [], dist_reduce_fx="cat")

    def update(self, activations: Tensor) -> None:
        self.pooled.append(activations.mean(dim=2))

    def compute(self) -> Tensor:
        return histogram_entropy(dim_zero_cat(self.pooled).double(), self.bins)


def histogram_entropy(values: Tensor, bins: int) -> Tensor:
    """The entropy (C,) in nats of each column of values (N, C), over equal bins of the column's own range.

    A column that is constant has entropy 0.
    """
    images, columns = values.shape
    lowest = values.amin(dim=0)
    spread = values.amax(dim=0) - lowest
    position = (values - lowest) / torch.where(spread > 0, spread, 1.0)
    index = (position * bins).long().clamp(max=bins - 1)  # the largest value belongs to the last bin
    counts = values.new_zeros(bins, columns).scatter_add_(0, index, torch.ones_like(values))
    fractions = counts / images
    return torch.special.entr(fractions).sum(dim=0)
