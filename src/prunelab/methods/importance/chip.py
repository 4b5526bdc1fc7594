"""Channel independence: the nuclear norm that the maps of a layer lose without one of them.

Sui, Yin, Xie, Phan, Zonouz, Yuan: CHIP: CHannel Independence-based Pruning for Compact Neural Networks, NeurIPS 2021,
arXiv:2110.13981, equations 4 and 5. Maps are read after the ReLU, those of a stage after the addition, as in the
authors' code. That code writes rounded maps (4 decimals) to the disk and computes the singular values anew without each
channel; here maps are not rounded, nothing is stored, and one eigendecomposition for each image and layer gives the
scores of all channels (``independence``). In that code each convolution that writes a stage selects its own channels,
and the statistics of the normalisation are not inherited; here a stage shares one decision, and pruned networks inherit
everything. The rates of its layers are set by hand; here the allocation determines them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

_VALUES_AT_ONCE = 1 << 22  # of maps that are converted to float64 together: 32 MiB

_STEP = 0.4  # of the trapezoidal rule in log t: its relative error is exp(-pi^2 / step) = 2e-11
_NODES = torch.arange(
    -30.0, 12.0, _STEP, dtype=torch.float64
).exp()  # t, in units of the largest singular value


@dataclass(frozen=True)
class CHIP(Criterion):
    """s_j = mean over images of ||A||_* - ||M_j A||_*, A (channels, positions) the maps of the layer.

    ||.||_* is the sum of singular values, and M_j sets row j to zero. A channel that is a combination of others adds
    little to the norm; a map of zeros adds nothing.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([3.0, -4.0, 4.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.CHIP(), prunelab.Budget(flops=1.0))
        >>> images = torch.ones(2, 1, 1, 1)
        >>> context = method.context(network, images[:1], [(images, torch.tensor([0, 1]))])
        >>> scores, _ = method.scored(context)
        >>> scores.channels["0"].round(6).tolist()
        [1.0, 0.0, 2.0]
    """

    reads: ClassVar[Reads] = "activations"
    origin: ClassVar[Origin] = Origin(
        "Sui et al., CHIP, NeurIPS 2021",
        "https://arxiv.org/abs/2110.13981",
        code="Eclipsess/CHIP_NeurIPS2021",
    )

    @property
    def about(self) -> About:
        return replace(super().about, cost="one forward pass, the eigenvalues of every layer's maps")

    def score(self, context: PruningContext) -> Scores:
        return score_taps(context, measure(context, MeanIndependence), self.reduction)


class MeanIndependence(Metric):
    """Per channel the mean independence (width,) over the images of activations (N, width, positions)."""

    total: Tensor
    images: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, activations: Tensor) -> None:
        each = max(1, _VALUES_AT_ONCE // max(1, activations[:1].numel()))
        for maps in activations.detach().split(each):
            if len(maps):
                self.total.add_(independence(maps).sum(dim=0).to(self.total.device))
        self.images.add_(len(activations))

    def compute(self) -> Tensor:
        return self.total / self.images


def independence(maps: Tensor) -> Tensor:
    """||A||_* - ||M_j A||_*, float64 (N, channels), of every row j of each A in ``maps`` (N, channels, positions).

    With the singular values s_i of A and its left singular vectors u_i, f_j(t) = 1 - sum_i u_ji^2 s_i^2 / (s_i^2 + t^2)
    is the quotient det(B_j + t^2) / det(B + t^2) for B = A^T A and B_j = A^T M_j A (a change of rank one). As the
    integral of log(1 + s^2 / t^2) over t from 0 to infinity is pi s, the difference of the norms is

        -1/pi  integral from 0 to infinity of  log f_j(t)  dt.

    In log t the integrand is analytic and decreases exponentially on both sides, so that the trapezoidal rule with
    about a hundred nodes is exact to rounding. The eigenvalues s^2 of B resolve s to 1e-8 of the largest one, which is
    the rounding of maps in float32.
    """
    maps = maps.double()
    channels, positions = maps.shape[1:]
    wide = channels <= positions
    gram = maps @ maps.mT if wide else maps.mT @ maps
    # On the CPU, because GPUs decompose matrices of more than 32 rows one by one, slower than a CPU.
    squares, vectors = torch.linalg.eigh(gram.cpu())
    squares = squares.clamp(min=0)
    largest = squares.amax(dim=1)[:, None, None]
    unit = torch.where(largest > 0, largest, 1.0)  # a layer of zeros has independence 0
    values = squares[:, :, None] / unit  # (N, r, 1), as all below in units of the largest singular value
    nodes = _NODES.square()
    if wide:
        loadings = vectors.square()  # (N, channels, r): u_ji^2
        removed = loadings @ (values / (values + nodes))
        kept = loadings @ (nodes / (values + nodes))
    else:
        removed = (maps.cpu() @ vectors).square() / unit @ (1 / (values + nodes))
        kept = 1 - removed
    kept = kept.maximum(nodes / (1 + nodes))  # a lower bound, which rounding may violate
    small = -torch.log(kept[..., nodes < 1])
    large = -torch.log1p(-removed[..., nodes >= 1])
    areas = torch.cat([small, large], dim=2) @ _NODES
    # Beyond the last node the integrand is |a_j|^2 / t^2 to rounding: a geometric series.
    rows = maps.square().sum(dim=2).cpu() / unit[:, :, 0]
    beyond = rows / _NODES[-1] / math.expm1(_STEP)
    return torch.where(rows > 0, (areas + beyond) * (_STEP / math.pi) * unit[:, :, 0].sqrt(), 0.0)
