"""First-order Taylor expansion of the change of the loss when a channel is removed.

Molchanov, Tyree, Karras, Aila, Kautz: Pruning Convolutional Neural Networks for Resource Efficient Inference,
ICLR 2017, arXiv:1611.06440, equations 8 and 9. ``absolute`` selects among published variants of the formula.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from prunelab.errors import UserError, nearest
from prunelab.methods.about import Origin
from prunelab.methods.allocation.candidate_widths import Normalisation, normalised
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.activations import measure, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGraph

Absolute = Literal["image", "elementwise", "batch"]


@dataclass(frozen=True)
class Taylor(Criterion):
    """s_j = mean over images of |mean over positions of (dC/da_j) a_j|, divided by the l2 norm over the
    layer's channels; C the loss, a_j the map (H, W) of channel j.

    The paper divides by the l2 norm itself, so ``global`` allocation compares these scores unscaled.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        absolute: where the absolute value is taken. ``image`` (the paper): of each image's mean over positions.
            ``elementwise``: at each position (the label "ICLR 2017" in NVlabs/Taylor_pruning, of 2019; that code
            divides each batch by its own norm, here the mean over all batches is divided). ``batch``: of the mean over
            all images and positions, so that signs cancel between images (jacobgil/pytorch-pruning, before the ReLU;
            here after it).
        flops_weight: subtract this weight times the MFLOPs that the network saves without one channel of the
            group (equation 10; the paper uses 1e-3). 0 (default) leaves costs to the budget.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.Taylor(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations and gradients"
    origin: ClassVar[Origin] = Origin(
        "Molchanov et al., Taylor expansion, ICLR 2017", "https://arxiv.org/abs/1611.06440"
    )
    normalisation: ClassVar[Normalisation] = "none"

    absolute: Absolute = "image"
    flops_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.absolute not in get_args(Absolute):
            offered = nearest(str(self.absolute), get_args(Absolute))
            raise UserError(f"absolute: {self.absolute!r} does not exist. {offered}")
        if self.flops_weight < 0:
            raise UserError(f"flops_weight={self.flops_weight} would reward costly channels: use 0 or more.")

    def score(self, context: PruningContext) -> Scores:
        values = measure(context, lambda width: ActivationGradient(width, self.absolute), gradients=True)
        scores = score_taps(
            context, values, self.reduction, per_member=lambda member: normalised(member, "l2")
        )
        saved = mflops_per_channel(context.graph)
        channels = {name: found - self.flops_weight * saved[name] for name, found in scores.channels.items()}
        block_scores = normalised(np.array(list(scores.blocks.values())), "l2")
        return Scores(channels, dict(zip(scores.blocks, block_scores.tolist(), strict=True)))


class ActivationGradient(Metric):
    """Per channel the size (width,) of activation times gradient, both (N, width, positions)."""

    total: Tensor
    images: Tensor

    def __init__(self, width: int, absolute: Absolute) -> None:
        super().__init__()
        self.absolute = absolute
        self.add_state("total", torch.zeros(width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, activations: Tensor, gradients: Tensor) -> None:
        change = activations * gradients
        if self.absolute == "elementwise":
            change = change.abs()
        per_image = change.mean(dim=2)
        if self.absolute == "image":
            per_image = per_image.abs()
        self.total += per_image.double().sum(dim=0)
        self.images += len(activations)

    def compute(self) -> Tensor:
        return self.total.abs() / self.images.clamp(min=1)


def mflops_per_channel(graph: ChannelGraph) -> dict[str, float]:
    """For each group the MFLOPs (survey convention, one image) that the network saves without one channel."""
    widths = np.array([group.size for group in graph.groups], dtype=np.int64)
    narrower = widths - np.eye(len(widths), dtype=np.int64)
    saved = graph.cost.flops() - graph.cost.flops(narrower)
    return {group.name: float(flops) / 1e6 for group, flops in zip(graph.groups, saved, strict=True)}
