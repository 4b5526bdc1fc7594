"""Channel pruning: a lasso on the next layer's outputs selects channels, then least squares adjusts the weights.

He, Zhang, Sun: Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017, arXiv:1707.06168, equations 1
to 3. Differences from github.com/yihui-he/channel-pruning:

- The lasso uses all sampled outputs through their Gram matrix, the code 400 random rows; the path over all penalties
  (least-angle regression) replaces the search for one penalty.
- All layers are scored and fitted with the inputs of the full network; the paper proceeds from the first layer to the
  last, with the inputs of the network pruned so far. The outputs are those before normalisation, without the bias.
- Least squares fits a constant for each output, as in the code. It is added to the layer's bias, or to the running mean
  of the batch normalisation after it; a layer without both has no constant. The lasso fits none, the code's does.
- No channel sampler for the first convolution of a residual block and no compensation of the shortcut's error: the
  input of the block is a stage, whose readers' errors are summed (or is not pruned with ``levels: [filter]``).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from prunelab.methods.about import Origin
from prunelab.methods.allocation.ties import copies_by_index
from prunelab.methods.reconstruction.least_squares import Indices, Matrix, refitted, scores_of_order
from prunelab.methods.reconstruction.rule import Reading, Rule


@dataclass(frozen=True)
class ChannelPruning(Rule):
    """min over beta of |Y - sum_i beta_i X_i W_i^T|^2 / 2 + lambda |beta|_1; then over W on the kept channels.

    The importance of a channel rises with the lambda at which its beta_i becomes zero. Its score is the relative
    error |Y - sum beta_i X_i W_i^T|^2 / |Y|^2 (least squares over beta) once it and all less important ones are
    removed.

    Args:
        unit_weights: divide each W_i by its Frobenius norm first, as in the paper (|W_i|_F = 1); the authors' code does
        not, so that channels read by large weights are penalised less.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ReconstructionPruning(prunelab.ChannelPruning(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    origin: ClassVar[Origin] = Origin(
        "He et al., Channel Pruning, ICCV 2017",
        "https://arxiv.org/abs/1707.06168",
        code="yihui-he/channel-pruning",
    )

    fits_constants: ClassVar[bool] = True

    unit_weights: bool = False

    def score(self, reading: Reading) -> Matrix:
        norms = reading.norms if self.unit_weights else np.ones(reading.size)
        return scores_of_order(reading.contributions, lasso_order(reading.contributions, norms))

    def adjusted(self, weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
        return refitted(weights, moments, kept, ridge)


def lasso_order(gram: Matrix, norms: Matrix) -> Indices:
    """The channels in the order in which they enter the lasso path, from the largest lambda down.

    ``gram`` (n, n) is that of the contributions, which are divided by ``norms`` (n,). Channels that never enter (the
    residual is zero) come last, ordered by their correlation with the output.
    """
    from sklearn.linear_model import lars_path_gram  # the import takes a second

    alive = np.diag(gram) > 0
    scale = np.where(alive & (norms > 0), norms, 1.0)
    unit = gram / np.outer(scale, scale)
    correlation = gram.sum(axis=1) / scale
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # of dependent channels one enters
        warnings.simplefilter("ignore", RuntimeWarning)
        _, _, path = lars_path_gram(correlation, unit, n_samples=1, method="lasso")
    entered = np.array([np.argmax(row != 0) if row.any() else path.shape[1] for row in path])
    order = np.lexsort((-np.abs(correlation), entered))
    return copies_by_index(order, np.diag(gram), correlation)
