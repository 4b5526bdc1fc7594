"""Subspace clustering of the feature maps: of the maps in one linear subspace, one is kept.

Wang, Zhou, Zhang, Bai, Zhou: Exploring Linear Relationship in Feature Map Subspace for ConvNets Compression,
arXiv:1803.05729. There is no official code; where the paper is not specific, our choices are: maps are those after the
activation function, which the next layers read; the penalty of the self-expression is relative to each map's largest
correlation; a cluster is represented by its medoid; maps that are removed are merged into the layers that read them by
least squares. All layers are clustered on the full network, not one after the other on the network pruned so far. A
stage is clustered by its maps in all places where it is read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.ties import tied
from prunelab.methods.reconstruction.least_squares import Indices, Matrix, merged
from prunelab.methods.reconstruction.rule import Reading, Rule

_RELAXATION = 1.6  # Boyd et al. 2011, section 3.4.3: 1.5 to 1.8
_TOLERANCE = 1e-5
_ITERATIONS = 1000


@dataclass(frozen=True)
class Subspace(Rule):
    """min over C of |X - X C|_F^2 / 2 + lambda |C|_1, diag(C) = 0, for the maps X (columns of norm 1); spectral
    clustering of |C| + |C|^T into one cluster per kept channel; the medoid of each cluster is kept.

    The budget determines the number of channels per group, by the score |X_j - X C_j|: the part of map j that the other
    maps do not explain. The clusters then determine the channels.

    Args:
        sparsity: lambda of map j as a fraction of max_k |X_j . X_k|, in (0, 1); at 1 no map would explain another.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ReconstructionPruning(prunelab.Subspace(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    origin: ClassVar[Origin] = Origin(
        "Wang et al., Feature map subspaces, 2018",
        "https://arxiv.org/abs/1803.05729",
        ours="penalty, representatives, merging",
    )

    sparsity: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise UserError(f"sparsity={self.sparsity} is not a fraction between 0 and 1.")

    def score(self, reading: Reading) -> Matrix:
        correlations = _correlations(reading.maps)
        mixture = self_expression(correlations, self.sparsity)
        explained = 2 * np.sum(mixture * correlations, axis=0) - np.sum(
            mixture * (correlations @ mixture), axis=0
        )
        return np.sqrt(np.clip(np.diag(correlations) - explained, 0, None))

    def choose(self, reading: Reading, kept: Indices) -> Indices:
        """The medoids of ``len(kept)`` clusters; maps that are zero everywhere are removed first."""
        if len(kept) == reading.size:
            return kept
        correlations = _correlations(reading.maps)
        alive = np.flatnonzero(np.diag(correlations) > 0)
        if len(alive) <= len(kept):
            dead = np.setdiff1d(np.arange(reading.size), alive)
            return np.sort(np.concatenate([alive, dead[: len(kept) - len(alive)]]))
        among = correlations[np.ix_(alive, alive)]
        labels = clusters(np.abs(self_expression(among, self.sparsity)), len(kept), reading.seed)
        chosen = [medoid(among, np.flatnonzero(labels == label)) for label in np.unique(labels)]
        energies = np.diag(reading.maps)[alive]
        rest = [int(place) for place in np.argsort(-tied(energies), kind="stable") if place not in chosen]
        chosen += rest[: len(kept) - len(chosen)]  # clusters can be empty
        return np.sort(alive[chosen])

    def adjusted(self, weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
        return merged(weights, moments, kept, ridge)


def self_expression(correlations: Matrix, sparsity: float) -> Matrix:
    """C (n, n): column j expresses map j by the others; from G = X^T X (n, n) of maps of norm 1 (or 0).

    All columns are computed together by the alternating direction method of multipliers, as in the code of sparse
    subspace clustering (Elhamifar, Vidal, TPAMI 2013; Boyd et al. 2011, section 6.4), with rho = 1, the diagonal of G,
    and over-relaxation. An iteration is one product of matrices; dozens of iterations are needed.
    """
    size = len(correlations)
    off_diagonal = np.abs(correlations)
    np.fill_diagonal(off_diagonal, 0)
    penalty = sparsity * off_diagonal.max(axis=0, initial=0)
    inverse = np.linalg.inv(correlations + np.eye(size))
    start = inverse @ correlations
    mixture, dual = np.zeros((size, size)), np.zeros((size, size))
    for _ in range(_ITERATIONS):
        smooth = start + inverse @ (mixture - dual)
        shifted = _RELAXATION * smooth + (1 - _RELAXATION) * mixture + dual
        sparse = np.sign(shifted) * np.maximum(np.abs(shifted) - penalty, 0)
        np.fill_diagonal(sparse, 0)
        dual = shifted - sparse
        change = max(np.abs(sparse - mixture).max(initial=0), np.abs(smooth - sparse).max(initial=0))
        mixture = sparse
        if change < _TOLERANCE:
            break
    return mixture


def clusters(mixture: Matrix, count: int, seed: int) -> Indices:
    """The cluster (n,) of each map, from the magnitudes of C: spectral clustering of |C| + |C|^T."""
    from sklearn.cluster import SpectralClustering

    if count == len(mixture):
        return np.arange(count)
    affinity = mixture + mixture.T + 1e-8  # always connected
    # With many vectors lobpcg computes one dense decomposition.
    solver = "lobpcg" if 5 * count > len(mixture) else "arpack"
    method = SpectralClustering(
        count, affinity="precomputed", assign_labels="cluster_qr", random_state=seed, eigen_solver=solver
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.fit_predict(affinity)


def medoid(correlations: Matrix, members: Indices) -> int:
    """The member with the largest sum of |correlations| to all; of equal ones the first."""
    return int(members[np.argmax(np.abs(correlations[np.ix_(members, members)]).sum(axis=1).round(12))])


def _correlations(gram: Matrix) -> Matrix:
    """X^T X of the maps scaled to norm 1; maps that are (almost) zero everywhere become zero."""
    energies = np.diag(gram)
    alive = energies > 1e-12 * max(energies.max(initial=0), 1e-300)
    scale = np.where(alive, 1 / np.sqrt(np.where(alive, energies, 1)), 0)
    found: Matrix = gram * np.outer(scale, scale)
    return found
