"""Rank of the feature maps.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao: HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020,
arXiv:2002.10179, equation 5. Maps are read after the ReLU, as in the authors' code (but for the stem of a ResNet-50,
whose maps it takes behind the pooling); that code draws other augmented images for every layer, here one pass over
the calibration images serves all of them. It gives each layer that writes a stage the rank of its own sum, here these
are joined. The paper goes layer by layer with fine-tuning in between; here all layers are scored at once.

Most maps of a layer may have the same rank: of channels that tie, the first ones stay.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.methods.about import About, Origin
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.base import Criterion, Reads
from prunelab.methods.scores import Scores

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

_VALUES_AT_ONCE = 1 << 17  # of maps that are decomposed together: as many as a processor keeps close by


@dataclass(frozen=True)
class HRank(Criterion):
    """s_j = mean over images of the rank of channel j's map (H, W).

    The rank is the number of singular values above max(H, W) eps sigma_1, eps that of float32.
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin(
        "Lin et al., HRank, CVPR 2020", "https://arxiv.org/abs/2002.10179", code="lmbxmu/HRank"
    )

    @property
    def about(self) -> About:
        return replace(super().about, cost="one forward pass, the rank of every map")

    def score(self, context: PruningContext) -> Scores:
        return score_taps(context, measure(context, MeanRank, shape="maps"), self.reduction)


class MeanRank(Metric):
    """Per channel the mean rank (width,) of its maps, over activations (N, width, H, W)."""

    ranks: Tensor
    images: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("ranks", torch.zeros(width, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, activations: Tensor) -> None:
        images, width, height, breadth = activations.shape
        if images:
            maps = activations.reshape(-1, height, breadth)
            self.ranks += matrix_ranks(maps).view(images, width).sum(dim=0)
        self.images += images

    def compute(self) -> Tensor:
        return self.ranks.double() / self.images


def matrix_ranks(maps: Tensor) -> Tensor:
    """The ranks (M,) of M maps (M, H, W), as ``torch.linalg.matrix_rank`` gives them in float32: int64.

    Few maps need their singular values. With A the rows of a map that are not zero and G = A A^T in float64, one
    Cholesky factorisation proves of most that all of them are independent; of others its columns that are not zero;
    and the eigenvalues of G, the squares of the singular values, settle nearly all that is left. Rounding in G is some
    1e-16 of its trace, and the squared tolerance is above 1e-14. A network of float64 or bfloat16 is judged by its
    maps in float32.
    """
    maps = maps.float()
    if maps.shape[1] > maps.shape[2]:
        maps = maps.mT
    tolerance = maps.shape[2] * torch.finfo(torch.float32).eps
    at_once = max(1, _VALUES_AT_ONCE // maps[0].numel())
    ranks = torch.full((len(maps),), -1, device=maps.device)
    for judge in (_independent_rows, _independent_columns, _from_eigenvalues, _from_singular_values):
        left = (ranks < 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        parts = (maps if len(left) == len(maps) else maps[left]).split(at_once)
        ranks[left] = torch.cat([judge(part, tolerance) for part in parts])
    return ranks


def _independent_rows(maps: Tensor, tolerance: float) -> Tensor:
    """For each map (M, n, m) the number of rows that are not zero if these are proven to be independent, -1 if not.

    With t the tolerance: if G - t^2 trace(G) I is positive definite on the rows that are not zero, then every
    singular value of these rows is above t sqrt(trace(G)) >= t sigma_1.
    """
    gram = _gram(maps)
    diagonal = gram.diagonal(dim1=1, dim2=2)  # a view: changes reach the matrix
    zero = diagonal == 0
    shift = diagonal.sum(dim=1, keepdim=True) * tolerance**2
    diagonal.sub_(shift).masked_fill_(zero, 1)
    failed = torch.linalg.cholesky_ex(gram, upper=True).info
    return torch.where(failed == 0, maps.shape[1] - zero.sum(dim=1), -1)


def _independent_columns(maps: Tensor, tolerance: float) -> Tensor:
    return _independent_rows(maps.mT, tolerance)


def _from_eigenvalues(maps: Tensor, tolerance: float) -> Tensor:
    """Ranks (M,) of maps (M, n, m); -1 where a singular value is too close to the tolerance to tell."""
    values = torch.linalg.eigvalsh(_gram(maps))
    relative = values / values[:, -1:]
    close = ((relative > tolerance**2 / 4) & (relative < tolerance**2 * 4)).any(dim=1)
    return torch.where(close, -1, (relative > tolerance**2).sum(dim=1))


def _from_singular_values(maps: Tensor, tolerance: float) -> Tensor:
    """Ranks (M,) of maps (M, n, m), by the definition."""
    values = torch.linalg.svdvals(maps)
    return (values > tolerance * values[:, :1]).sum(dim=1)


def _gram(maps: Tensor) -> Tensor:
    """A A^T (M, n, n) of maps (M, n, m), in float64."""
    doubles = maps.double()
    return doubles @ doubles.mT
