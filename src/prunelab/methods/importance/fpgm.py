"""Distance to the geometric median of the filters.

He, Liu, Wang, Hu, Yang: Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
Acceleration, CVPR 2019, arXiv:1811.00250, equation 6. Filters near the median can be replaced by the others.
The paper masks filters while it trains; here the score is taken once, from the trained weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.ties import tied
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.weights import score_producers

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class FPGM(Criterion):
    """s_j = sum over the layer's filters k of ||W_j - W_k||_2, W_j (inputs, h, w).

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        norm_rate: FPGM-mix keeps this fraction of the filters by l2 norm first and sums distances only over these; the
            filters of smallest norm are then removed before all others. 1 (default) is FPGM-only, 0.9 the paper's mix.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.FPGM(), prunelab.Budget(flops=1.0))
        >>> scores, _ = method.scored(method.context(network, torch.zeros(1, 1, 2, 2)))
        >>> scores.channels["0"].tolist()
        [6.0, 11.0, 7.0]
    """

    reads: ClassVar[Reads] = "weights"
    dead_first: ClassVar[bool] = False
    origin: ClassVar[Origin] = Origin(
        "He et al., Geometric Median, CVPR 2019",
        "https://arxiv.org/abs/1811.00250",
        code="he-y/filter-pruning-geometric-median",
    )

    norm_rate: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.norm_rate <= 1:
            raise UserError(
                f"norm_rate={self.norm_rate} is not a fraction of the filters: use a number in (0, 1]."
            )

    def score(self, context: PruningContext) -> Scores:
        return score_producers(context, self._score_filters, self.reduction)

    def _score_filters(self, filters: np.ndarray) -> np.ndarray:
        filters = filters.astype(np.float64)
        norms = np.linalg.norm(filters, axis=1)
        small = np.argsort(-tied(norms), kind="stable")[::-1][
            : len(filters) - math.ceil(self.norm_rate * len(filters) - 1e-9)
        ]
        large = np.setdiff1d(np.arange(len(filters)), small)
        scores = np.empty(len(filters))
        scores[large] = distance_sums(filters[large])
        if small.size and norms[large].min() > 0:
            # Below all other scores, ordered by norm.
            scores[small] = scores[large].min() * norms[small] / norms[large].min()
        else:
            scores[small] = 0.0
        return scores


def distance_sums(points: np.ndarray) -> np.ndarray:
    """The sum (n,) of each point's Euclidean distances to all points (n, d), from their Gram matrix."""
    gram = points @ points.T
    squares = np.diag(gram)
    squared_distances = squares[:, None] + squares[None, :] - 2 * gram
    return np.sqrt(np.maximum(squared_distances, 0)).sum(axis=1)
