"""Rank of the feature maps.

Lin, Ji, Wang, Zhang, Zhang, Tian, Shao: HRank: Filter Pruning using High-Rank Feature Map, CVPR 2020,
arXiv:2002.10179, equation 5. Maps are read after the ReLU, as in the authors' code (except the stem of a ResNet-50,
whose maps that code reads after the pooling). That code draws other augmented images for every layer; here one pass
over the calibration images serves all layers. It gives each layer that writes a stage the rank of its own sum; here
these ranks are joined. The paper prunes layer by layer with fine-tuning in between; here all layers are scored at once.

Most maps of a layer may have the same rank; of channels with equal scores the first ones are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

Judge = Callable[[Tensor, float], Tensor]
"""Ranks (M,) of maps (M, m, n), m >= n, with a relative tolerance; -1 where the rank is undecided."""

_VALUES_AT_ONCE = 1 << 17  # in the maps of one call on the CPU; more do not fit into its caches
_VALUES_AT_ONCE_ON_GPU = 1 << 22  # fewer, larger calls: a third of the time on an H100 for maps of 28x28
_WIDEST_ON_GPU = 32  # a GPU decomposes wider matrices one by one: 1 ms each on an H100, 0.1 ms on a CPU


@dataclass(frozen=True)
class HRank(Criterion):
    """s_j = mean over images of the rank of channel j's map (H, W).

    The rank is the number of singular values above max(H, W) eps sigma_1, eps that of float32.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.HRank(), prunelab.Budget(flops=1.0))
        >>> images = torch.eye(2).expand(2, 1, 2, 2)
        >>> context = method.context(network, images[:1], [(images, torch.tensor([0, 1]))])
        >>> scores, _ = method.scored(context)
        >>> scores.channels["0"].tolist()
        [2.0, 0.0, 2.0]
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
    """Per channel the mean rank (width,) of its maps, over activations (N, width, H, W).

    Maps that need singular values are few; they are collected and decomposed in one call.
    """

    ranks: Tensor
    images: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("ranks", torch.zeros(width, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")
        # Indices (k,) of maps in their batch, and these maps (k, H, W).
        self._aside: list[tuple[Tensor, Tensor]] = []

    def update(self, activations: Tensor) -> None:
        images, width, height, breadth = activations.shape
        if images:
            maps = activations.reshape(-1, height, breadth)
            ranks, left, left_maps = quick_ranks(maps)
            self.ranks.add_(ranks.view(images, width).sum(dim=0))
            if len(left):
                self._put_aside(left, left_maps)
        self.images.add_(images)

    def compute(self) -> Tensor:
        self._settle()
        return self.ranks.double() / self.images

    def sync(self, *arguments: Any, **options: Any) -> None:
        self._settle()  # ranks are summed over processes; collected maps are not exchanged
        super().sync(*arguments, **options)

    def reset(self) -> None:
        self._aside.clear()
        super().reset()

    def _put_aside(self, places: Tensor, maps: Tensor) -> None:
        if self._aside and self._aside[0][1].shape[1:] != maps.shape[1:]:
            self._settle()
        self._aside.append((places, maps))
        if sum(held.numel() for _, held in self._aside) >= _values_at_once(maps.device):
            self._settle()

    def _settle(self) -> None:
        if self._aside:
            places, maps = (torch.cat(parts) for parts in zip(*self._aside, strict=True))
            self._aside.clear()
            self.ranks.index_add_(0, places % len(self.ranks), _from_singular_values(maps, _tolerance(maps)))


def quick_ranks(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The ranks (M,) of maps (M, H, W) that need no singular values; the indices (k,) of the few others, and these
    maps.

    The ranks, int64, are those of ``torch.linalg.matrix_rank`` in float32, and 0 for the others, which are (k, m, n).

    On the CPU, with numba and for maps of at most 64 columns, a Cholesky factorisation of A^T A in float64 proves
    nearly all ranks. Otherwise it proves for most maps that the columns that are not zero are independent; for some of
    the others it proves the same for the rows or, on a GPU, the number of independent columns. The eigenvalues of A^T
    A, the squares of the singular values, give nearly all other ranks. Maps of float64 or bfloat16 are converted to
    float32.

    Raises:
        LinAlgError: a map holds NaN or infinity.
    """
    maps, tolerance = maps.float(), _tolerance(maps)
    if maps.shape[1] < maps.shape[2]:
        maps = maps.mT
    if maps.device.type == "cpu" and (kernel := _compiled_kernel()) and maps.shape[2] <= kernel.WIDEST:
        matrices = maps.numpy()
        found = kernel.proven_ranks(matrices, tolerance, torch.get_num_threads())
        unknown = np.flatnonzero(found < 0)
        found[unknown] = 0
        unknown_matrices = matrices[unknown]
        if not np.isfinite(unknown_matrices).all():
            raise torch.linalg.LinAlgError("NaN and infinity have no rank.")
        return torch.from_numpy(found), torch.from_numpy(unknown), torch.from_numpy(unknown_matrices)
    ranks = torch.full((len(maps),), -1, device=maps.device)
    judges: tuple[Judge, ...] = (_independent_columns, _independent_rows, _from_eigenvalues)
    if maps.device.type != "cpu":
        judges = (_independent_columns, _dependent_columns, _from_eigenvalues)
    for judge in judges:
        left = (ranks < 0).nonzero().squeeze(1)
        if len(left) == 0:
            break
        ranks[left] = judge(maps if len(left) == len(maps) else maps[left], tolerance)
    left = (ranks < 0).nonzero().squeeze(1)
    left_maps = maps[left]
    if not left_maps.isfinite().all():  # on a GPU singular values would be NaN without an error
        raise torch.linalg.LinAlgError("NaN and infinity have no rank.")
    return ranks.clamp(min=0), left, left_maps


def _compiled_kernel() -> ModuleType | None:
    """The kernel for small matrices on the CPU; None if numba (``prunelab[fast]``) is not installed.

    It is imported at the first call, because the import of numba is slow.
    """
    try:
        from prunelab.methods.importance.kernels import proven_ranks
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return None
    return proven_ranks


def _tolerance(maps: Tensor) -> float:
    """The tolerance, relative to the largest singular value."""
    return max(maps.shape[1:]) * float(torch.finfo(torch.float32).eps)


def _values_at_once(device: torch.device) -> int:
    return _VALUES_AT_ONCE if device.type == "cpu" else _VALUES_AT_ONCE_ON_GPU


def _in_parts(judge: Judge) -> Judge:
    def judge_in_parts(maps: Tensor, tolerance: float) -> Tensor:
        at_once = max(1, _values_at_once(maps.device) // maps[0].numel())
        return torch.cat([judge(part, tolerance) for part in maps.split(at_once)])

    return judge_in_parts


@_in_parts
def _independent_columns(maps: Tensor, tolerance: float) -> Tensor:
    """For each map (M, m, n) the number of columns that are not zero if these are proven independent, -1 if not.

    The proof is that of ``proven_ranks``, with all columns that are not zero as P. On a GPU the factorisation of a
    matrix with NaN counts as successful, so the sum of squares has to be finite.
    """
    gram = _gram(maps)
    diagonal = gram.diagonal(dim1=1, dim2=2)  # a view: changes reach the matrix
    zero = diagonal == 0
    shift = diagonal.sum(dim=1, keepdim=True) * tolerance**2
    diagonal.sub_(shift).masked_fill_(zero, 1)
    failed = torch.linalg.cholesky_ex(gram, upper=True).info
    proven = (failed == 0) & shift.squeeze(1).isfinite()
    return torch.where(proven, maps.shape[2] - zero.sum(dim=1), -1)


def _independent_rows(maps: Tensor, tolerance: float) -> Tensor:
    return _independent_columns(maps.mT, tolerance)


@_in_parts
def _dependent_columns(maps: Tensor, tolerance: float) -> Tensor:
    """For each map (M, m, n) the number of columns on which the others are proven to depend, -1 without a proof.

    The proof is that of ``proven_ranks``: P are the columns with a positive pivot in the elimination of G - s I, and
    the squared residuals of the others sum to at most s / 2n. G and G - s I are eliminated together, one column of all
    maps in each step.
    """
    gram = _gram(maps)
    width = gram.shape[1]
    shift = gram.diagonal(dim1=1, dim2=2).sum(dim=1) * tolerance**2
    both = torch.stack([gram, gram])  # (2, M, n, n): shifted, unshifted
    both[0].diagonal(dim1=1, dim2=2).sub_(shift[:, None])
    number, rest = torch.zeros_like(shift, dtype=torch.int64), torch.zeros_like(shift)
    for column in range(width):
        pivots, rows = both[:, :, column, column].clone(), both[:, :, column, column + 1 :]
        chosen = pivots[0] > 0
        number += chosen
        rest += torch.where(chosen, 0.0, pivots[1])
        factors = torch.where(chosen[:, None], rows / pivots[:, :, None], 0.0)
        both[:, :, column + 1 :, column + 1 :].sub_(factors[..., :, None] * rows[..., None, :])
    proven = (rest <= shift / (2 * width)) & shift.isfinite()  # inf <= inf is true
    return torch.where(proven, number, -1)


@_in_parts
def _from_eigenvalues(maps: Tensor, tolerance: float) -> Tensor:
    """Ranks (M,) of maps (M, m, n); -1 where a singular value is too close to the tolerance to decide."""
    values = torch.linalg.eigvalsh(_where_decomposed(_gram(maps))).to(maps.device)
    relative = values / values[:, -1:]
    close = ((relative > tolerance**2 / 4) & (relative < tolerance**2 * 4)) | ~relative.isfinite()
    return torch.where(close.any(dim=1), -1, (relative > tolerance**2).sum(dim=1))


@_in_parts
def _from_singular_values(maps: Tensor, tolerance: float) -> Tensor:
    """Ranks (M,) of maps (M, m, n), by the definition."""
    values = torch.linalg.svdvals(_where_decomposed(maps)).to(maps.device)
    return (values > tolerance * values[:, :1]).sum(dim=1)


def _where_decomposed(matrices: Tensor) -> Tensor:
    return matrices if matrices.shape[-1] <= _WIDEST_ON_GPU else matrices.cpu()


def _gram(maps: Tensor) -> Tensor:
    """A^T A (M, n, n) of maps (M, m, n), in float64."""
    doubles = maps.double()
    return doubles.mT @ doubles
