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

_VALUES_AT_ONCE = 1 << 18  # of maps that are decomposed together: as many as a processor keeps close by


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

    Few maps need their singular values. With A the rows (or columns, whichever are fewer) of a map that are not zero
    and G = A A^T in float64, one Cholesky factorisation proves of most that all of them are independent, and the
    eigenvalues of G, the squares of the singular values, settle nearly all others. Rounding in G is some 1e-16 of
    its trace, and the squared tolerance is above 1e-14. A network of float64 or bfloat16 is judged by its maps in
    float32.
    """
    maps = maps.float()
    magnitudes = maps.abs()
    rows, columns = (magnitudes.amax(dim=dim).count_nonzero(dim=1) for dim in (2, 1))
    ranks = torch.minimum(rows, columns)
    tolerance = max(maps.shape[1:]) * torch.finfo(torch.float32).eps
    for wide, chosen in ((True, rows <= columns), (False, rows > columns)):
        index = (chosen & (ranks > 0)).nonzero().squeeze(1)
        if len(index):
            doubles = (maps if len(index) == len(maps) else maps[index]).double()
            _settle(ranks, index, doubles @ doubles.mT if wide else doubles.mT @ doubles, tolerance)
    undecided = (ranks < 0).nonzero().squeeze(1)
    if len(undecided):
        values = torch.linalg.svdvals(maps[undecided])
        ranks[undecided] = (values > tolerance * values[:, :1]).sum(dim=1)
    return ranks


def _settle(ranks: Tensor, index: Tensor, gram: Tensor, tolerance: float) -> None:
    """Put right those of ``ranks`` at ``index`` that are below the number of rows that are not zero, from the Gram
    matrices (I, n, n) of the rows; -1 where a singular value is too close to the tolerance to tell."""
    open_ = (~_independent(gram, tolerance)).nonzero().squeeze(1)
    if not len(open_):
        return
    values = torch.linalg.eigvalsh(gram[open_])
    relative = values / values[:, -1:]
    close = ((relative > tolerance**2 / 4) & (relative < tolerance**2 * 4)).any(dim=1)
    ranks[index[open_]] = torch.where(close, -1, (relative > tolerance**2).sum(dim=1))


def _independent(gram: Tensor, tolerance: float) -> Tensor:
    """Whether (M,) the rows with Gram matrices (M, n, n) are proven to be independent, but for those that are zero.

    With t the tolerance: if G - t^2 trace(G) I is positive definite on the rows that are not zero, then every
    singular value of these rows is above t sqrt(trace(G)) >= t sigma_1.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)  # a view: changes reach the matrix
    before = diagonal.clone()
    trace = before.sum(dim=1, keepdim=True)
    diagonal += torch.where(before == 0, trace, -(tolerance**2) * trace)
    failed = torch.linalg.cholesky_ex(gram).info
    diagonal.copy_(before)
    return failed == 0
