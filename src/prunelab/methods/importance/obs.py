"""The loss that removing a channel adds if the remaining weights compensate for it: greedy, structured OBS.

Hassibi, Stork: Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992; with the curvature of
Martens, Grosse: K-FAC, ICML 2015, arXiv:1503.05671, as in Wang et al.: EigenDamage, ICML 2019, arXiv:1905.05934. Our
additions: the score of a coupled group is the sum over all layers that read it; costs are scaled to the measured Fisher
information (see ``fisher``), so that layers can be compared; constants are compensated as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from prunelab.errors import UserError
from prunelab.methods.about import Origin
from prunelab.methods.allocation.candidate_widths import Normalisation, Rule
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.ties import tied
from prunelab.methods.importance.criterion import Criterion, Reads
from prunelab.methods.importance.sensitivity import Curvature, measure_sensitivity, require_draws

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext
    from prunelab.structure import ChannelGroup


@dataclass(frozen=True)
class OBS(Criterion):
    """Channels are removed one after the other, the cheapest first; the cost of each is its score.

    For a layer with inputs of covariance A and outputs whose gradient has the second moment G, removing the inputs J
    costs tr(G W_J [(A^-1)_JJ]^-1 W_J^T) if the weights of all others change optimally; W and A^-1 are then updated to
    those of the smaller layer. The cost of a channel is the sum over the layers that read it.

    The effect of compensation is measured on held-out images (a quarter of all): the cost of a channel is the increase
    of tr(G dW A' dW^T) on them, with dW the sum of all changes so far.

    Args:
        reduction: has no effect.
        dampings: values added to the diagonal of A, relative to its mean; for each group the one with the smallest loss
            is used.
        positions: number of random positions of each image at which the inputs of a layer are read.
        at_once: fraction of a group's channels that are removed between two updates (at least one channel).
        draws: number of random directions of the loss for each image, with one backward pass each.
        memory: limit on the bytes of the moments; the images are read in several passes if needed.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
        >>> images, targets = torch.rand(16, 1, 4, 4), torch.arange(16) % 2
        >>> method = prunelab.ImportanceMethod(prunelab.OBS(), prunelab.Budget(params=0.5))
        >>> plan = method.decide(method.context(network, images[:1], [(images, targets)]))
        >>> len(plan.kept["0"])
        3
    """

    reads: ClassVar[Reads] = "activations and gradients"
    origin: ClassVar[Origin] = Origin(
        "Wang et al., EigenDamage, ICML 2019",
        "https://arxiv.org/abs/1905.05934",
        ours="scaled to the measured Fisher information; sums over coupled layers",
    )
    normalisation: ClassVar[Normalisation] = "none"
    allocation: ClassVar[Rule] = "per_cost"

    dampings: tuple[float, ...] = (1e-2, 1e-1, 1.0)
    positions: int = 32
    at_once: float = 0.02
    draws: int = 4
    memory: int = 2**30

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dampings or min(self.dampings) <= 0:
            raise UserError(
                f"dampings={self.dampings}: use numbers above 0, because inputs can be linearly dependent."
            )
        require_draws(self.draws)
        if not 0 < self.at_once <= 1:
            raise UserError(
                f"at_once={self.at_once} is not a fraction of a group's channels: use one in (0, 1]."
            )

    def score(self, context: PruningContext) -> Scores:
        channels: dict[str, np.ndarray] = {}
        blocks: dict[str, float] = {}
        for groups, layers in _parts(context, self.memory):
            found = measure_sensitivity(context, self.draws, layers, self.positions)
            blocks = dict(found.scores.blocks)
            for group in groups:
                if group.name in found.scores.channels:
                    fisher = found.scores.channels[group.name]
                    channels[group.name] = self._group(context, group, found.layers, fisher)
        return Scores(channels, blocks, are_order=True)

    def _group(
        self,
        context: PruningContext,
        group: ChannelGroup,
        layers: Mapping[str, Curvature],
        fisher: np.ndarray,
    ) -> np.ndarray:
        """The scores of a group, from the curvature of the layers that read it."""
        own = [part for part in group.having("consumer") if part.parameter in layers]
        if not own:
            return fisher
        found = []
        for damping in self.dampings:
            readers = [
                Reader(
                    context.model.get_parameter(part.parameter), layers[part.parameter], part.index, damping
                )
                for part in own
            ]
            plain = np.sum([reader.plain() for reader in readers], axis=0)
            ratios = _ratios(fisher, plain)
            order, costs = removal_order(readers, ratios, max(1, round(self.at_once * group.size)))
            found.append((float(costs.cumsum()[: (group.size + 1) // 2].sum()), order, costs))
        _, order, costs = min(found, key=lambda each: each[0])
        return scores_along(order, costs)


def _ratios(fisher: np.ndarray, plain: np.ndarray) -> np.ndarray:
    """One factor for all channels of a group, such that the uncompensated costs sum to the measured information."""
    least = 1e-12 * max(float(plain.max()), 1e-300)
    return np.full(len(plain), fisher.sum() / max(float(plain.sum()), least))


def removal_order(
    readers: Sequence[Reader], ratios: np.ndarray, at_once: int
) -> tuple[np.ndarray, np.ndarray]:
    """The channels in the order of their removal, and the cost of each at its removal."""
    left = np.arange(len(ratios))
    order: list[int] = []
    paid: list[float] = []
    lost = 0.0
    while len(left):
        costs = np.sum([reader.costs(left) for reader in readers], axis=0) * ratios[left]
        falling = np.argsort(-tied(costs), kind="stable")  # of equal channels the last one is removed first
        chosen = falling[::-1][: min(at_once, len(left))]
        gone = left[chosen]
        left = np.delete(left, chosen)
        for reader in readers:
            reader.remove(gone)
        now = max(lost, sum(reader.lost() for reader in readers))
        shares = costs[chosen] / np.maximum(ratios[gone], 1e-300) + 1e-300
        order.extend(gone.tolist())
        paid.extend(((now - lost) * shares / shares.sum() * ratios[gone]).tolist())
        lost = now
    return np.array(order), np.array(paid)


def scores_along(order: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Scores (size,) that never fall along ``order``: the closest such costs (isotonic regression). Of equal ones the
    channel that is removed first has the lower score."""
    rising = isotonic_regression(np.maximum(costs, 0)).x
    scores = np.empty(len(order))
    last = -np.inf
    for channel, cost in zip(order, rising, strict=True):
        last = scores[channel] = max(cost, float(np.nextafter(last, np.inf)))
    return scores


class Reader:
    """One layer that reads a group, while the group's channels are removed."""

    def __init__(self, weight: Tensor, found: Curvature, index: np.ndarray, damping: float) -> None:
        groups = found.xx.shape[1]
        taps = weight[0, 0].numel()
        self._owned = torch.from_numpy((index[:, :, None] * taps + np.arange(taps)).reshape(len(index), -1))
        rows = found.rows.clamp(min=1)[:, None, None]
        means, seconds = found.x / rows, found.xx / rows[..., None]
        self._second = (found.xx.sum(dim=0)) / found.rows.sum().clamp(min=1)
        covariance = _about(seconds[0], means[0], means[0])
        # Batches of fewer than HELD_OUT images have no held-out image.
        self._held_out = _about(seconds[1], means[1], means[0]) if found.rows[1] > 0 else covariance
        level = covariance.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=1e-12)
        eye = torch.eye(covariance.shape[1], dtype=covariance.dtype, device=covariance.device)
        self._inverse = torch.linalg.inv(covariance + damping * level[:, None, None] * eye)
        own = weight.detach().double().reshape(groups, -1, weight[0].numel()).to(covariance.device)
        self._before = _root(found.gg) @ own  # (G, rank, D); the squares are losses
        self._now = self._before

    def plain(self) -> np.ndarray:
        """The cost of each channel without compensation, (channels,)."""
        blocks = _blocks(self._second, self._owned)
        weights = self._before[:, :, self._owned].movedim(2, 1)  # (G, channels, rank, m)
        return _cost(weights, blocks)

    def costs(self, left: np.ndarray) -> np.ndarray:
        """The cost of each remaining channel with compensation by the others, on the images of the fit."""
        owned = self._owned[left]
        blocks = torch.linalg.inv(_blocks(self._inverse, owned))
        return _cost(self._now[:, :, owned].movedim(2, 1), blocks)

    def remove(self, channels: np.ndarray) -> None:
        """Remove channels; the weights of the others change optimally."""
        gone = self._owned[channels].flatten()
        rows = self._inverse[:, gone]  # (G, gone, D)
        solved = torch.linalg.solve(rows[:, :, gone], rows)
        self._now = self._now - self._now[:, :, gone] @ solved
        self._inverse = self._inverse - rows.mT @ solved

    def lost(self) -> float:
        """The cost of all changes so far on the held-out images."""
        change = self._now - self._before
        return float(((change @ self._held_out) * change).sum())


def _about(second: Tensor, mean: Tensor, center: Tensor) -> Tensor:
    """Second moments (G, D, D) about ``center`` (G, D), from those about 0."""
    cross = mean[:, :, None] * center[:, None, :]
    return second - cross - cross.mT + center[:, :, None] * center[:, None, :]


def _blocks(matrix: Tensor, owned: Tensor) -> Tensor:
    """The diagonal blocks (G, channels, m, m) of a matrix (G, D, D)."""
    return matrix[:, owned[:, :, None], owned[:, None, :]]


def _cost(weights: Tensor, blocks: Tensor) -> np.ndarray:
    """sum over G of tr(W B W^T): weights (G, channels, O, m), blocks (G, channels, m, m)."""
    found: np.ndarray = ((weights @ blocks) * weights).sum(dim=(0, 2, 3)).cpu().numpy()
    return found


def _root(matrix: Tensor) -> Tensor:
    """R (G, rank, O) with R^T R = matrix (G, O, O), symmetric and positive semidefinite (to 1e-6 of its trace)."""
    values, vectors = torch.linalg.eigh(matrix)
    small = values.clamp(min=0).sum(dim=0).cumsum(dim=0) <= 1e-6 * values.sum()
    rest = min(int(small.sum()), matrix.shape[1] - 1)
    return values[:, rest:].clamp(min=0).sqrt()[:, :, None] * vectors[:, :, rest:].mT


def _parts(context: PruningContext, memory: int) -> Iterator[tuple[list[ChannelGroup], list[str]]]:
    """Sets of groups with their layers, such that the moments of a set fit into ``memory``; a layer that does not fit
    alone is left out."""
    groups: list[ChannelGroup] = []
    layers: dict[str, None] = {}
    taken = 0
    for group in context.groups:
        own = {
            part.parameter: _size(context.model.get_parameter(part.parameter))
            for part in group.having("consumer")
            if part.dim == 1
        }
        own = {name: size for name, size in own.items() if size <= memory}
        new = sum(size for name, size in own.items() if name not in layers)
        if groups and taken + new > memory:
            yield groups, list(layers)
            groups, layers, taken = [], {}, 0
            new = sum(own.values())
        groups.append(group)
        layers.update(dict.fromkeys(own))
        taken += new
    if groups or context.blocks:
        yield groups, list(layers)


def _size(weight: Tensor) -> int:
    """Bytes of the moments of a layer with this weight."""
    features, outputs = weight[0].numel(), len(weight)
    return 8 * (2 * features**2 + outputs**2)
