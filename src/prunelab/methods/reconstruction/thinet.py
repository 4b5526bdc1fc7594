"""ThiNet: remove the channels whose contributions to the next layer's outputs cancel best.

Luo, Wu, Lin: ThiNet: A Filter Level Pruning Method for Deep Neural Network Compression, ICCV 2017,
arXiv:1707.06342, equations 6 and 7 and algorithm 1; Luo, Zhang, Zhou, Xie, Wu, Lin: ThiNet: Pruning CNN Filters for a
Thinner Net, TPAMI 2018. Differences from github.com/Roll920/ThiNet_Code:

- All outputs of the next layer are used at each sampled position; the code samples some. Its stride and padding apply;
  the code assumes stride 1 and no padding.
- All layers are scored on the full network, so that a budget can be distributed over them; the paper proceeds from the
  first layer to the last, with fine-tuning in between. ``allocation: uniform`` gives the paper's equal rates.
- The paper prunes filters inside blocks (``levels: [filter]``). For a stage the errors in all layers that read it are
  summed; the shortcuts themselves are not part of the sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np

from prunelab.errors import UserError, nearest
from prunelab.methods.about import Origin
from prunelab.methods.allocation.ties import tied
from prunelab.methods.reconstruction.least_squares import Indices, Matrix, rescaled, scores_of_order
from prunelab.methods.reconstruction.rule import Reading, Rule

Variant = Literal["removal", "selection"]


@dataclass(frozen=True)
class ThiNet(Rule):
    """Greedy removal or selection of channels; then the kept ones are rescaled by least squares.

    x_i is the contribution of channel i to the outputs y = sum x_i of the layers that read it. The score of a channel
    is the relative error |y - X_S w|^2 / |y|^2 without it and without all channels that are removed before it (or
    selected after it).

    Args:
        variant: ``removal`` (ICCV): the next removed channel i minimises |sum_{t in T} x_t + x_i|^2 for the removed
            channels T. ``selection`` (TPAMI): the next selected channel i minimises |r - (x_i . r / x_i . x_i) x_i|^2,
            where r = y - X_S w for the selected channels S, and w is the least squares solution.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ReconstructionPruning(prunelab.ThiNet(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    origin: ClassVar[Origin] = Origin(
        "Luo et al., ThiNet, ICCV 2017", "https://arxiv.org/abs/1707.06342", code="Roll920/ThiNet_Code"
    )

    variant: Variant = "removal"

    def __post_init__(self) -> None:
        if self.variant not in get_args(Variant):
            raise UserError(
                f"variant: {self.variant!r} does not exist. {nearest(str(self.variant), get_args(Variant))}"
            )

    def score(self, reading: Reading) -> Matrix:
        gram = reading.contributions
        order = removal_order(gram)[::-1] if self.variant == "removal" else selection_order(gram)
        return scores_of_order(gram, order)

    def adjusted(self, weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
        return rescaled(weights, moments, kept, ridge)


def removal_order(gram: Matrix) -> Indices:
    """The channels in order of removal: each minimises |t + x_i|^2, t the sum of those removed before. O(n) per
    step."""
    with_removed = np.zeros(len(gram))  # x_i . t
    left = np.ones(len(gram), dtype=np.bool_)
    order = []
    for _ in range(len(gram)):
        growth = np.where(left, 2 * with_removed + np.diag(gram), np.inf)
        order.append(
            len(gram) - 1 - int(np.argmin(tied(growth)[::-1]))
        )  # of equal channels the last one is removed first
        left[order[-1]] = False
        with_removed += gram[:, order[-1]]
    return np.array(order)


def selection_order(gram: Matrix) -> Indices:
    """The channels in order of selection: each explains most of the residual r. O(n^2) per step.

    ``residual`` is the Gram matrix of the parts of the others that the selected channels do not explain.
    """
    residual, with_rest, energy = gram.copy(), gram.sum(axis=1), np.diag(gram)  # with_rest: x_i . r
    seen = energy > 1e-12 * max(energy.max(initial=0), 1e-300)
    left = np.ones(len(gram), dtype=np.bool_)
    order = []
    for _ in range(len(gram)):
        explained = np.where(seen, with_rest**2 / np.where(seen, energy, 1), 0)
        chosen = int(np.argmax(tied(np.where(left, explained, -1))))
        order.append(chosen)
        left[chosen] = False
        rest = residual[chosen, chosen]
        if rest > 1e-12 * energy[chosen]:
            column = residual[:, chosen].copy()
            with_rest = with_rest - column * (with_rest[chosen] / rest)
            residual -= np.outer(column, column) / rest
    return np.array(order)
