"""Spectral clustering of the filters.

Zhuo, Qian, Fu, Yang, Xue: SCSP: Spectral Clustering Filter Pruning with Soft Self-adaption Manners,
arXiv:1806.05320. Similar filters form clusters, and clusters that contribute little are removed first. The paper zeroes
them softly during training; here the score is computed once, from the trained weights. No published code defines the
affinity width, the number of clusters or the contribution: the settings below are our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.linalg

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.weights import score_producers

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

_WITHIN_CLUSTER = 1e-6


@dataclass(frozen=True)
class SCSP(Criterion):
    """s_j = mean of ||W_k||_2 over the filters k in the cluster of filter j.

    Filters are clustered by the normalised Laplacian of S_ij = exp(-||W_i - W_j||^2 / (2 sigma^2)), sigma the
    median distance of two filters. A budget that ends inside a cluster removes its smallest filters first: a
    millionth of a filter's own norm is added to its score.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        clusters: their number as a fraction of the layer's filters, in (0, 1].
        restarts: number of starts of k-means; the best result is used.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.SCSP(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "weights"
    origin: ClassVar[Origin] = Origin(
        "Zhuo et al., SCSP, 2018",
        "https://arxiv.org/abs/1806.05320",
        ours="affinity width, number of clusters",
    )

    clusters: float = 0.25
    restarts: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.clusters <= 1:
            raise UserError(
                f"clusters={self.clusters} is not a fraction of the filters: use a number in (0, 1]."
            )
        if self.restarts < 1:
            raise UserError(f"restarts={self.restarts}: k-means has to start at least once.")

    def score(self, context: PruningContext) -> Scores:
        def score_filters(filters: np.ndarray) -> np.ndarray:
            filters = filters.astype(np.float64)
            count = math.ceil(self.clusters * len(filters) - 1e-9)
            clusters = spectral_clusters(filters, count, self.restarts, context.seed)
            norms = np.linalg.norm(filters, axis=1)
            contributions = np.bincount(clusters, norms) / np.maximum(np.bincount(clusters), 1)
            return contributions[clusters] + _WITHIN_CLUSTER * norms

        return score_producers(context, score_filters, self.reduction)


def spectral_clusters(points: np.ndarray, count: int, restarts: int, seed: int) -> np.ndarray:
    """The cluster number (n,) in [0, count) of each of n points (n, d).

    K-means clusters the rows of the first ``count`` eigenvectors of the normalised Laplacian, scaled to unit length
    (Ng, Jordan, Weiss, NIPS 2001).
    """
    from sklearn.cluster import KMeans  # the import takes a second, and only this criterion needs it

    if count == 1:
        return np.zeros(len(points), dtype=np.int64)
    affinity = affinities(points)
    scale = 1 / np.sqrt(affinity.sum(axis=1))
    similarity = scale[:, None] * affinity * scale[None, :]  # 1 - the Laplacian: reversed order
    last = len(points) - 1
    _, vectors = scipy.linalg.eigh(similarity, subset_by_index=(last - count + 1, last))
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
    return KMeans(count, n_init=restarts, random_state=seed).fit_predict(unit).astype(np.int64)


def affinities(points: np.ndarray) -> np.ndarray:
    """S (n, n) of points (n, d): 1 for equal points, exp(-1/2) at the median distance."""
    gram = points @ points.T
    squares = np.diag(gram)
    squared_distances = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
    median = float(np.median(squared_distances[np.triu_indices(len(points), k=1)]))
    return np.exp(-squared_distances / (2 * median)) if median > 0 else (squared_distances <= 0).astype(float)
