"""L1 norm of the filters.

Li, Kadav, Durdanovic, Samet, Graf: Pruning Filters for Efficient ConvNets, ICLR 2017, arXiv:1608.08710,
section 3.1. The paper prunes the first convolutions of residual blocks with hand-set ratios; here the budget
sets them. All layers are scored on the full network (the paper's independent pruning; its greedy variant leaves out
weights that read channels removed from earlier layers). In the paper the projection shortcut alone decides for a stage;
here all producers do (``reduction``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.weights import score_producers

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class L1Norm(Criterion):
    """s_j = sum |W_j| over the weights W_j (inputs, k, k) of filter j.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=1.0))
        >>> scores, _ = method.scored(method.context(network, torch.zeros(1, 1, 2, 2)))
        >>> scores.channels["0"].tolist()
        [1.0, 4.0, 2.0]
    """

    reads: ClassVar[Reads] = "weights"
    origin: ClassVar[Origin] = Origin(
        "Li et al., Pruning Filters, ICLR 2017", "https://arxiv.org/abs/1608.08710"
    )

    def score(self, context: PruningContext) -> Scores:
        return score_producers(
            context, lambda filters: np.abs(filters).sum(axis=1, dtype=np.float64), self.reduction
        )
