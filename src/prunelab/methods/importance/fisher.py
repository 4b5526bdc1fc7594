"""Fisher information: the loss that removing a channel adds, to second order.

Theis, Korshunova, Tejani, Huszar: Faster gaze prediction with dense networks and Fisher pruning, 2018,
arXiv:1801.05787, equation 8; Liu et al.: Group Fisher Pruning, ICML 2021, arXiv:2108.00708, for coupled channels.
Differences from the papers:

- The gradient is that of the divergence from the network's own output in random directions, so that the mean of the
  squares is the true Fisher information and no label is needed (the papers use labels: the empirical one).
- A channel is scored where it is read: s_j sums activation times gradient over all positions and all layers that read
  channel j, with the gradient through that layer alone. In a residual stage nothing is counted twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from prunelab.methods.about import Origin
from prunelab.methods.allocation.candidate_widths import Normalisation, Rule
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.sensitivity import measure_sensitivity, require_draws

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


@dataclass(frozen=True)
class Fisher(Criterion):
    """score_j = mean over images of s_j^2 / 2, s_j = sum over positions and readers of x_j dC/dx_j.

    The unit is that of the loss, so scores of different layers (and blocks) are compared without normalisation. For a
    stage the sum includes all layers that read it.

    Args:
        reduction: has no effect.
        draws: number of random directions for each image, with one backward pass each.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.Fisher(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations and gradients"
    origin: ClassVar[Origin] = Origin(
        "Theis et al., Fisher pruning, 2018; Liu et al., ICML 2021", "https://arxiv.org/abs/1801.05787"
    )
    normalisation: ClassVar[Normalisation] = "none"
    allocation: ClassVar[Rule] = "per_cost"

    draws: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        require_draws(self.draws)

    def score(self, context: PruningContext) -> Scores:
        return measure_sensitivity(context, self.draws).scores
