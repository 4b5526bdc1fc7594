"""Rank of the feature maps.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao: HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020,
arXiv:2002.10179, equation 5. Maps are read after the ReLU, as in the authors' code; that code draws other
augmented images for every layer, here one pass over the calibration images serves all of them. The paper goes
layer by layer with fine-tuning in between; here all layers are scored at once.

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

_VALUES_AT_ONCE = 1 << 20  # of maps that are decomposed together: some 30 MB of work space


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
        maps = activations.reshape(-1, height, breadth)
        chunks = maps.split(max(1, _VALUES_AT_ONCE // (height * breadth)))
        if images:
            self.ranks += torch.cat([matrix_ranks(chunk) for chunk in chunks]).view(images, width).sum(dim=0)
        self.images += images

    def compute(self) -> Tensor:
        return self.ranks.double() / self.images


def matrix_ranks(maps: Tensor) -> Tensor:
    """The ranks (M,) of M maps (M, H, W), as ``torch.linalg.matrix_rank`` gives them in float32: int64.

    Few maps need their singular values. After a ReLU most have as many independent rows (or columns) as they
    have rows (columns) that are not zero, and one Cholesky factorisation proves that.
    """
    maps = maps.float()
    ranks, proven = _ranks_if_independent(maps)
    open_ = (~proven).nonzero().squeeze(1)
    if len(open_):
        ranks[open_] = _ranks_by_singular_values(maps[open_])
    return ranks


def _ranks_by_singular_values(maps: Tensor) -> Tensor:
    values = torch.linalg.svdvals(maps)
    return (values > _relative_tolerance(maps) * values[:, :1]).sum(dim=1)


def _relative_tolerance(maps: Tensor) -> float:
    return max(maps.shape[1:]) * torch.finfo(torch.float32).eps


def _ranks_if_independent(maps: Tensor) -> tuple[Tensor, Tensor]:
    """(the number of rows or columns that are not zero, whichever is smaller; whether it is proven to be the
    rank).

    With G = A A^T in float64 and t the tolerance relative to the largest singular value: if G - t^2 trace(G)
    I is positive definite on the rows that are not zero, then every singular value of these rows is above t
    sqrt(trace(G)) >= t sigma_1. Rounding in G is some 1e-16 of its trace, and t^2 is above 1e-14. A network
    of float64 or bfloat16 is judged by its maps in float32.
    """
    rows, columns = ((maps != 0).any(dim=dim).sum(dim=1) for dim in (2, 1))
    ranks = torch.minimum(rows, columns)
    proven = ranks == 0
    for chosen, oriented in ((rows <= columns, maps), (rows > columns, maps.mT)):
        index = (chosen & ~proven).nonzero().squeeze(1)
        if len(index):
            proven[index] = _rows_are_independent(oriented[index].double(), _relative_tolerance(maps))
    return ranks, proven


def _rows_are_independent(maps: Tensor, tolerance: float) -> Tensor:
    """Whether (M,) the rows of each map (M, R, C) that are not zero are proven to be independent."""
    gram = maps @ maps.mT
    diagonal = gram.diagonal(dim1=1, dim2=2)  # a view: changes reach the matrix
    trace = diagonal.sum(dim=1, keepdim=True)
    diagonal += torch.where(diagonal == 0, trace, -(tolerance**2) * trace)
    return torch.linalg.cholesky_ex(gram).info == 0
