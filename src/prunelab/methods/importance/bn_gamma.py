"""Scale factors of the normalisation layers.

Liu, Li, Shen, Huang, Yan, Zhang: Learning Efficient Convolutional Networks through Network Slimming, ICCV
2017, arXiv:1708.06519, section 3. The paper trains with an l1 penalty on the factors first; without that training the
score is the same, but separates the channels less clearly. The paper ranks the factors of all layers together, unscaled
(``normalisation: none``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from prunelab.errors import UserError, nearest
from prunelab.methods.about import Origin
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads, joined
from prunelab.methods.importance.weights import relative, rows

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import Slice

Missing = Literal["error", "keep"]


@dataclass(frozen=True)
class BNGamma(Criterion):
    """s_j = |gamma_j|, the factor that the normalisation layer multiplies channel j by.

    A block is judged by the factors of its stage that lie inside it, relative to all factors of the stage.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".
        missing: what to do with groups that no normalisation layer scales: ``error`` raises UserError, ``keep`` does
            not prune them (as in the paper for fully connected layers).

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1))
        >>> network[1].weight.data = torch.tensor([0.5, -2.0, 0.25])
        >>> method = prunelab.ImportanceMethod(prunelab.BNGamma(), prunelab.Budget(flops=1.0))
        >>> scores, _ = method.scored(method.context(network, torch.zeros(1, 1, 2, 2)))
        >>> scores.channels["0"].tolist()
        [0.5, 2.0, 0.25]
    """

    reads: ClassVar[Reads] = "weights"
    origin: ClassVar[Origin] = Origin(
        "Liu et al., Network Slimming, ICCV 2017",
        "https://arxiv.org/abs/1708.06519",
        code="Eric-mingjie/network-slimming",
    )

    missing: Missing = "error"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.missing not in get_args(Missing):
            raise UserError(
                f"missing: {self.missing!r} does not exist. {nearest(str(self.missing), get_args(Missing))}"
            )

    def score(self, context: PruningContext) -> Scores:
        channels = {}
        for group in context.groups:
            scales = group.having("scale")
            if scales:
                channels[group.name] = joined(
                    [_magnitudes(context, scale) for scale in scales], self.reduction
                )
            elif self.missing == "error":
                raise UserError(
                    f"No normalisation layer scales group {group.name} of {context.name}, so it has no gamma to "
                    "score. Use method.criterion.missing=keep, which does not prune such groups, or another method."
                )
        return Scores(channels, self._block_scores(context))

    def _block_scores(self, context: PruningContext) -> dict[str, float]:
        """A block without a factor that belongs to its stage has no score and is kept."""
        scores = {}
        for block in context.blocks:
            stage = context.graph.group(block.stage).having("scale") if block.stage else ()
            inside = [scale for scale in stage if scale.parameter.startswith(f"{block.name}.")]
            if inside:
                own, peers = ([_magnitudes(context, s).mean() for s in part] for part in (inside, stage))
                scores[block.name] = relative(own, peers)
        return scores


def _magnitudes(context: PruningContext, scale: Slice) -> np.ndarray:
    return np.abs(rows(context.model, scale)).mean(axis=1)
