"""L2 norm of the filters: the magnitude baseline, and the score inside soft filter pruning.

He, Kang, Dong, Fu, Yang: Soft Filter Pruning for Accelerating Deep CNNs, IJCAI 2018, arXiv:1808.06866,
    equation 2.
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
class L2Norm(Criterion):
    """s_j = sqrt(sum W_j^2) over the weights W_j (inputs, k, k) of filter j.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1, bias=False), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[0].weight.data = torch.tensor([1.0, -4.0, 2.0]).reshape(3, 1, 1, 1)
        >>> method = prunelab.ImportanceMethod(prunelab.L2Norm(), prunelab.Budget(flops=1.0))
        >>> scores, _ = method.scored(method.context(network, torch.zeros(1, 1, 2, 2)))
        >>> scores.channels["0"].tolist()
        [1.0, 4.0, 2.0]
    """

    reads: ClassVar[Reads] = "weights"
    origin: ClassVar[Origin] = Origin(
        "He et al., Soft Filter Pruning, IJCAI 2018",
        "https://arxiv.org/abs/1808.06866",
        code="he-y/soft-filter-pruning",
    )

    def score(self, context: PruningContext) -> Scores:
        return score_producers(context, _norms, self.reduction)


def _norms(filters: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("ij,ij->i", filters, filters, dtype=np.float64))
