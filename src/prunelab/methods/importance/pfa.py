"""Principal filter analysis.

Suau, Zappella, Palakkode, Apostoloff: Filter Distillation for Network Compression (first version: Network Compression
using Correlation Analysis of Layer Responses), arXiv:1807.10585. The spectrum of a layer's responses determines the
number of units, their correlations determine which units. Responses are maxima over positions, as in the authors' code
(apple/dnikit); here they are read after normalisation and ReLU.

Within a layer units are dropped one at a time. Let k be the place of a unit counted from the end (the unit at k = 1 is
dropped last) and E(k) the share of the k largest eigenvalues of the covariance in their sum.

PFA-En keeps the smallest number of units with E >= tau: the unit at place k is kept if and only if E(k - 1) < tau. With
s = 1 - E(k - 1), one threshold 1 - tau on the scores of all layers is one energy tau for all layers; the budget
determines tau.

PFA-KL gives every layer its own number of units, K = ceil(n (1 - KL(spectrum || uniform) / log n)), independent of the
budget. With s = K / k a threshold of 1 keeps these numbers; any other threshold scales all K by one factor, which the
budget determines.

The covariance of n channels needs at least n images; with fewer there is a warning (an error in the authors' code).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import scipy.linalg
import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.distributed.messages import warn
from prunelab.errors import UserError, nearest
from prunelab.methods.about import Origin
from prunelab.methods.allocation.candidate_widths import Normalisation
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure
from prunelab.methods.importance.criterion import Criterion, Reads, joined, warn_not_pruned

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

Widths = Literal["energy", "kl"]
Order = Literal["l1max", "absmax"]

_INACTIVE = 1e-8  # variance relative to the layer's largest (apple/dnikit)
_SAME_ENERGY = 1e-9


@dataclass(frozen=True)
class PFA(Criterion):
    """s_j = 1 - E(k - 1) (``energy``) or K / k (``kl``) for the unit that is k-th to last to be dropped; see
    above.

    Scores of all layers are compared unscaled (``normalisation: none``). Each place where a stage is read is
    analysed separately. Units are ranked within their layer, so that blocks cannot be compared.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        widths: how the number of units of a layer is set. ``energy``: the share of energy is the same in all layers
            (PFA-En). ``kl``: the numbers of PFA-KL, all scaled by one factor.
        order: which unit is dropped next. ``l1max``: the one whose absolute correlations with the remaining units
            have the largest sum. ``absmax``: of the two remaining units with the largest absolute correlation the
            one whose next largest is larger. Constant units (variance below 1e-8 of the layer's largest) are dropped
            first. Of equal units the last is dropped (in the authors' code the first).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.PFA(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin(
        "Suau et al., Principal Filter Analysis, 2018",
        "https://arxiv.org/abs/1807.10585",
        code="apple/dnikit",
    )
    normalisation: ClassVar[Normalisation] = "none"
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    widths: Widths = "energy"
    order: Order = "l1max"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, offered in (("widths", Widths), ("order", Order)):
            value = getattr(self, name)
            if value not in get_args(offered):
                raise UserError(f"{name}: {value!r} does not exist. {nearest(str(value), get_args(offered))}")

    def score(self, context: PruningContext) -> Scores:
        covariances = measure(context, PooledCovariance)
        _warn_of_few_images(context)
        channels = {}
        for group in context.groups:
            members = [
                self._score_units(_of_channels(covariances[found.hook_point], found.positions))
                for found in group.hook_points
            ]
            if members:
                channels[group.name] = joined(members, self.reduction)
        warn_not_pruned(
            context,
            [group.name for group in context.groups if not group.hook_points],
            "can be observed nowhere",
        )
        return Scores(channels, are_order=True)

    def _score_units(self, covariance: np.ndarray) -> np.ndarray:
        """The scores (n,) of n units from the covariance (n, n) of their responses."""
        n = len(covariance)
        places = np.arange(1, n + 1)
        spectrum = eigenvalues(covariance)
        if self.widths == "kl":
            by_place = kl_width(spectrum) / places
        else:
            shares = spectrum / spectrum.sum() if spectrum.sum() > 0 else spectrum
            rest = shares[::-1].cumsum()[::-1]  # 1 - E(k - 1)
            by_place = rest - _SAME_ENERGY * places / n  # keeps the order where no energy is left
        scores = np.empty(n)
        scores[dropping_order(covariance, self.order)[::-1]] = by_place
        return scores


class PooledCovariance(Metric):
    """The covariance (width, width) over images of the largest value of each channel, from activations (N,
    width, positions)."""

    total: Tensor
    products: Tensor
    images: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("products", torch.zeros(width, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, activations: Tensor) -> None:
        responses = activations.amax(dim=2).double()
        self.total += responses.sum(dim=0)
        self.products.addmm_(responses.T, responses)
        self.images += len(activations)

    def compute(self) -> Tensor:
        mean = self.total / self.images
        return self.products / self.images - mean.outer(mean)


def eigenvalues(covariance: np.ndarray) -> np.ndarray:
    """The eigenvalues of a covariance (n, n), largest first.

    With r < n images its rank is below r, and its non-zero eigenvalues are those of L^T L, L (n, rank) the pivoted
    Cholesky factor: for few images a hundred times faster.
    """
    n = len(covariance)
    factor, _, rank, _ = scipy.linalg.lapack.dpstrf(covariance, lower=1)
    if 2 * rank > n:
        return np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    lower = np.tril(factor)[:, :rank]
    found = np.linalg.eigvalsh(lower.T @ lower)[::-1]
    return np.concatenate([np.maximum(found, 0), np.zeros(n - rank)])


def kl_width(spectrum: np.ndarray) -> int:
    """The number of units that PFA-KL keeps, from their eigenvalues (n,): ceil(n (1 - KL(p || uniform) / log n)).

    KL(p || uniform) = log n - H(p), so the fraction is the entropy H of the spectrum relative to its largest
    possible value.
    """
    n, total = len(spectrum), spectrum.sum()
    if n == 1 or total <= 0:
        return 1
    shares = spectrum[spectrum > 0] / total
    entropy = -(shares * np.log(shares)).sum()
    return max(1, math.ceil(n * entropy / math.log(n) - 1e-9))


def dropping_order(covariance: np.ndarray, order: Order) -> np.ndarray:
    """The n units of a covariance (n, n) in the order in which they are dropped; of equal ones the last comes first."""
    variances = np.diag(covariance)
    active = np.flatnonzero(variances > max(_INACTIVE * variances.max(), 0))
    inactive = np.setdiff1d(np.arange(len(covariance)), active)[::-1]
    deviations = np.sqrt(variances[active])
    correlations = np.abs(covariance[np.ix_(active, active)] / np.outer(deviations, deviations))
    np.fill_diagonal(correlations, 0)
    drop = _by_largest_sum if order == "l1max" else _by_largest_pair
    return np.concatenate([inactive, active[drop(correlations)]])


def _by_largest_sum(correlations: np.ndarray) -> np.ndarray:
    sums = correlations.sum(axis=1)
    dropped = []
    for _ in range(len(sums)):
        unit = _last_of_largest(sums)
        dropped.append(unit)
        sums -= correlations[unit]
        sums[unit] = -np.inf
    return np.array(dropped, dtype=np.int64)


def _by_largest_pair(correlations: np.ndarray) -> np.ndarray:
    """Visit pairs in descending order of correlation; if both units of a pair remain, one of them is dropped."""
    left = correlations.copy()
    first, second = np.triu_indices(len(left), k=1)
    remains = np.ones(len(left), dtype=bool)
    dropped = []
    for pair in np.argsort(-correlations[first, second], kind="stable"):
        one, other = first[pair], second[pair]
        if remains[one] and remains[other]:
            left[one, other] = left[other, one] = -1
            unit = (one, other)[_last_of_largest(left[[one, other]].max(axis=1))]
            dropped.append(unit)
            remains[unit] = False
            left[unit] = left[:, unit] = -1
    return np.array([*dropped, *np.flatnonzero(remains)], dtype=np.int64)


def _last_of_largest(values: np.ndarray) -> int:
    """The index of the largest value; of values that differ only by rounding, the last."""
    largest = values.max()
    return int(np.flatnonzero(values >= largest - 1e-9 * abs(largest))[-1])


def _of_channels(covariance: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """The covariance (n, n) of channels, each the mean of its positions (n, m) in a hook point."""
    rows = sum(covariance[at] for at in positions.T) / positions.shape[1]
    return sum(rows[:, at] for at in positions.T) / positions.shape[1]


def _warn_of_few_images(context: PruningContext) -> None:
    widest = max((group.size for group in context.groups), default=0)
    images = context.images().images
    if images < widest:
        warn(
            f"PFA reads {images} images, but a layer of {context.name} has {widest} channels: their "
            "covariance needs at least that many images (recipe.calibration_images)."
        )
