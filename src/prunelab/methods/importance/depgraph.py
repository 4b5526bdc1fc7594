"""Group norm: the weights of all layers that lose a channel, its producers, its scales and its readers.

Fang, Ma, Song, Mi, Wang: DepGraph: Towards Any Structural Pruning, CVPR 2023, arXiv:2301.12900, section 3.3. The
authors' code (Torch-Pruning) removes channels in up to 400 small steps and computes scores anew in each;
here they are computed once (in more steps: recipe=iterative). It does not count the weights of depthwise convolutions,
which are counted here. ``DepGraphSparse`` also learns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads, joined, warn_not_pruned
from prunelab.methods.importance.weights import rows

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGroup, Slice


@dataclass(frozen=True)
class DepGraph(Criterion):
    """s_j = mean over the tensors of the group of sum W_j^2, W_j the weights of the tensor that belong to channel j.

    The tensors are the weights of the layers that produce or read the channels, and the scales of the normalisation
    layers in between. Global allocation divides scores by their mean in each group, as in the authors' code.

    Args:
        reduction: over the tensors of a group: "mean", "sum" or "max" of their scores.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 1, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> network[2].weight.data = torch.tensor([3.0, 0.0, 2.0]).reshape(1, 3, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.DepGraph(), prunelab.Budget(flops=1.0))
        >>> scores, _ = method.scored(method.context(network, torch.zeros(1, 1, 2, 2)))
        >>> scores.channels["0"].tolist()
        [5.0, 8.0, 4.0]
    """

    reads: ClassVar[Reads] = "weights"
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage")
    origin: ClassVar[Origin] = Origin(
        "Fang et al., DepGraph, CVPR 2023", "https://arxiv.org/abs/2301.12900", code="VainF/Torch-Pruning"
    )

    def score(self, context: PruningContext) -> Scores:
        channels = {}
        for group in context.groups:
            members = [np.square(rows(context.model, part)).sum(axis=1) for part in group_weights(group)]
            if members:
                channels[group.name] = joined(members, self.reduction)
        without = [group.name for group in context.groups if group.name not in channels]
        warn_not_pruned(context, without, "have no weights")
        return Scores(channels)


def group_weights(group: ChannelGroup) -> tuple[Slice, ...]:
    """The weights and scales that lose the channels of ``group``, in forward order."""
    return group.having("producer", "gate", "depthwise", "scale", "consumer")
