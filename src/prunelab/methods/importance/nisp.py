"""Neuron importance score propagation.

Yu, Li, Chen, Lai, Morariu, Han, Gao, Lin, Davis: NISP: Pruning Networks using Neuron Importance Score
Propagation, CVPR 2018, arXiv:1711.05908, equations 14 to 16. The authors published no code. Features of the final
response layer, the input of the classifier, are ranked by Inf-FS (Roffo, Melzi, Cristani, ICCV 2015), here as in the
code of its authors (giorgioroffo/Infinite-Feature-Selection; release 4.0 of 2016, which NISP could use). Their scores
are propagated backwards through the absolute values of the weights (``propagation.py``).

In Inf-FS a constant feature is independent of all others, which raises its score. A channel of the classifier's input
that is always zero therefore has a high score, unless the weights that read it are zero as well.

The scores of a tensor are a sum over its readers, so that a stage includes those of every later block. Products of
absolute weights grow with every layer; the scores of each layer are therefore divided by their mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.linalg
import scipy.stats
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather, on_all_ranks
from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.candidate_widths import normalised
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.finite_pass import require_finite
from prunelab.methods.importance.activations import calibration_batches, score_taps
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.propagation import final_response, propagate
from prunelab.methods.untouched import untouched

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

SHORTENING = 0.99
"""Factor of a path per step, relative to the largest one for which the sum over paths converges."""


@dataclass(frozen=True)
class NISP(Criterion):
    """s_j = sum over positions of the importance of channel j, where s^l = |W^(l+1)|^T s^(l+1).

    Blocks cannot be scored: a block's branch and its shortcut are added, and both have the scores of their sum.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        alpha: weight in [0, 1] of the features' spread in Inf-FS; the weight of their independence is 1 - alpha.
        batch_norm_scale: whether a batch normalisation multiplies the scores of a channel by |gamma| / sqrt(variance +
            eps); in the paper it leaves them unchanged.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.NISP(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations"
    dead_first: ClassVar[bool] = False
    origin: ClassVar[Origin] = Origin("Yu et al., NISP, CVPR 2018", "https://arxiv.org/abs/1711.05908")
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")

    alpha: float = 0.5
    batch_norm_scale: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha={self.alpha} is not a weight: use a number from 0 to 1.")

    def score(self, context: PruningContext) -> Scores:
        features, image_shape = _features(context)
        importance = torch.from_numpy(inf_fs(features.numpy(), self.alpha))
        hook_points = {found.hook_point for group in context.groups for found in group.hook_points}
        values = propagate(context, importance, hook_points, image_shape, self.batch_norm_scale)
        return score_taps(
            context, values, self.reduction, per_member=lambda member: normalised(member, "mean")
        )


def _features(context: PruningContext) -> tuple[Tensor, tuple[int, ...]]:
    """The final responses (images, features) of all ranks, float64 on the CPU, and the shape of an image."""
    batches = [batch for rank in gather(on_all_ranks(lambda: _own_features(context))) for batch in rank]
    if not batches:
        raise UserError("The calibration loader holds no images to score with.")
    return torch.cat([features for features, _ in batches]), batches[0][1]


def _own_features(context: PruningContext) -> list[tuple[Tensor, tuple[int, ...]]]:
    found = []
    with untouched(context.model, context.device, context.seed), torch.no_grad():
        for images, _ in calibration_batches(context):
            features = final_response(context.model, images)
            require_finite(context, images, features)
            found.append((features.double().cpu(), tuple(images.shape[1:])))
    return found


def inf_fs(features: np.ndarray, alpha: float) -> np.ndarray:
    """Importance (F,) of features (images, F) by infinite feature selection.

    A_ij = alpha S_ij + (1 - alpha) (1 - |Spearman_ij|) is the weight of the step from feature i to feature j, with S_ij
    = max(std_i, std_j) shifted and scaled to [0, 1] over all pairs. The importance of i is the sum of the weights of
    all paths of any length that start at i, with a factor r = 0.99 / rho(A) per step: ((I - r A)^-1 - I) 1. The
    correlation of a constant feature is 0, also with itself.
    """
    ranks = scipy.stats.rankdata(features, axis=0)
    ranks -= ranks.mean(axis=0)
    lengths = np.linalg.norm(ranks, axis=0)
    ranks /= np.where(lengths > 0, lengths, 1.0)
    spearman = np.abs(ranks.T @ ranks)
    graph = alpha * _spreads(features) + (1 - alpha) * (1 - spearman)
    last = len(graph) - 1
    radius = float(scipy.linalg.eigvalsh(graph, subset_by_index=(last, last))[0])
    if radius <= 0:
        return np.ones(len(graph))  # all features are alike
    ones = np.ones(len(graph))
    return np.linalg.solve(np.eye(len(graph)) - SHORTENING / radius * graph, ones) - ones


def _spreads(features: np.ndarray) -> np.ndarray:
    """S (F, F), in [0, 1]; zeros if the spread of all features is equal."""
    spread = features.std(axis=0)
    larger = np.maximum.outer(spread, spread)
    larger -= larger.min()
    largest = float(larger.max())
    return larger / largest if largest > 0 else larger
