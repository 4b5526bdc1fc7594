"""FLOPs utilisation ratio: the rise of the loss when channels of one group are dropped at random.

Chen, Niu, Xie, Liu, Wei, Tian: Network Adjustment: Channel Search Guided by FLOPs Utilization Ratio, CVPR 2020,
arXiv:2004.02767, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.methods.context import Loss, PruningContext
from prunelab.methods.search.widths import WidthSpace
from prunelab.structure import PruningPlan
from prunelab.structure.layer_calls import Use, Watch, parameter_names

Readers = Mapping[str, Sequence[tuple[str, Tensor]]]
"""For each weight the groups that its layer reads, and the inputs that belong to each channel, (channels, m)."""

LARGEST_RATE = 0.5
"""Drop rates are limited to this value."""


def drop_rates(space: WidthSpace, row: NDArray[np.int64], base: float) -> dict[str, tuple[float, float]]:
    """Drop rates with which all groups lose the same expected cost.

    With the cost F, the width n_l of group l and ``F_l = n_l dF/dn_l``, the rate is ``d_l = base mean_k(F_k) / F_l``:
    the expected loss of cost, ``d_l F_l = base mean_k(F_k)``, is the same for all groups. ``dF/dn_l`` is the central
    difference, which is exact for FLOPs and parameters (quadratic in one width).

    Args:
        space: the groups, and the resource of the budget.
        row: widths of all groups, (groups,).
        base: the rate of a group of mean cost.

    Returns:
        group -> (rate, share of the common expected cost that is lost: 1, or less if the rate was limited).
    """
    columns = {group.name: column for column, group in enumerate(space.context.graph.groups)}
    own = {}
    for name in space.choices:
        around = np.stack([row, row])
        around[:, columns[name]] += (1, -1)
        above, below = space.costs(around)
        own[name] = float(row[columns[name]] * (above - below) / 2)
    wanted = {
        name: base * float(np.mean(list(own.values()))) / cost for name, cost in own.items() if cost > 0
    }
    return {name: (min(rate, LARGEST_RATE), min(1.0, LARGEST_RATE / rate)) for name, rate in wanted.items()}


def utilisation(
    space: WidthSpace,
    network: nn.Module,
    plan: PruningPlan,
    batches: Sequence[tuple[Tensor, Tensor]],
    base: float,
    repeats: int,
) -> dict[str, float]:
    """The ratio of each group of ``network``, which was pruned by ``plan`` and is in evaluation mode.

    ``FUR_l = 1/T sum_t [L(channels of l dropped with rate d_l) - L]``, with the mean loss L over ``batches`` and
    T = ``repeats``. Dropout is Bernoulli, with a factor 1 / (1 - d_l) on kept channels and a mask for each image and
    channel, which is the same for all layers that read the channel. If d_l was limited, the rise is divided by the
    share of the common cost that is lost.

    Args:
        space: the groups of the full network.
        network: the pruned network.
        plan: the plan with which it was pruned.
        batches: images (N, C, H, W) and targets.
        base: see ``drop_rates``.
        repeats: passes with different masks for each group.

    Returns:
        group -> ratio, for the groups that only convolutions and linear layers read.
    """
    context, graph = space.context, space.context.graph
    row = np.array([plan.widths.get(group.name, (0, group.size))[1] for group in graph.groups])
    passes = _Passes(context, _readers(context, plan), parameter_names(network))
    whole = passes.loss(network, batches)
    found = {}
    for name, (rate, share) in drop_rates(space, row, base).items():
        parts = graph.group(name).having("consumer")
        if not parts or any(part.dim != 1 or part.parameter not in passes.called for part in parts):
            continue
        losses = [
            passes.loss(network, batches, name, rate, context.seed + repeat) for repeat in range(repeats)
        ]
        found[name] = (float(np.mean(losses)) - whole) / share
    return found


class _Passes:
    """Passes over held-out images with dropped channels of one group."""

    def __init__(self, context: PruningContext, readers: Readers, names: Mapping[int, str]) -> None:
        self._loss: Loss = context.loss
        self._readers, self._names = readers, names
        self._group, self._rate = "", 0.0
        self._generator = torch.Generator()
        self._masks: dict[int, Tensor] = {}
        self.called: set[str] = set()

    @torch.no_grad()
    def loss(
        self,
        network: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]],
        group: str = "",
        rate: float = 0.0,
        seed: int = 0,
    ) -> float:
        """The mean loss over all images, with the channels of ``group`` dropped with probability ``rate``."""
        self._group, self._rate = group, rate
        self._generator.manual_seed(seed)
        total, count = 0.0, 0
        with Watch(self._names, self._entered):
            for images, targets in batches:
                self._masks.clear()
                total += float(self._loss(network(images), targets)) * len(images)
                count += len(images)
        return total / count

    def _entered(self, name: str, use: Use) -> Tensor | None:
        """The input of a layer with dropped channels; None: unchanged."""
        self.called.add(name)
        given = use.given
        for group, index in self._readers.get(name, ()):
            if group == self._group and self._rate > 0:
                mask = self._mask(len(given), len(index)).to(given)
                features = given.shape[-1] if use.linear else given.shape[1] // use.groups
                factors = mask.new_ones(len(given), features)
                factors[:, index.flatten()] = mask.repeat_interleave(index.shape[1], dim=1)
                if use.linear:
                    return given * factors.view(len(given), *[1] * (given.dim() - 2), features)
                factors = factors.repeat(1, use.groups)
                return given * factors.view(*factors.shape, *[1] * (given.dim() - 2))
        return None

    def _mask(self, rows: int, channels: int) -> Tensor:
        """0 with the drop rate, else 1 / (1 - rate); (rows, channels). One for all layers that read one batch."""
        if rows not in self._masks:
            stays = torch.rand(rows, channels, generator=self._generator) >= self._rate
            self._masks[rows] = stays / (1 - self._rate)
        return self._masks[rows]


def _readers(context: PruningContext, plan: PruningPlan) -> Readers:
    """The readers of all groups in the network that is pruned by ``plan``."""
    kept = {cut.tensor: np.array(cut.indices) for cut in plan.cuts if cut.dim == 1}
    found: dict[str, list[tuple[str, Tensor]]] = {}
    for group in context.groups:
        whole = range(group.size)
        for member in group.members or (group,):
            stays = list(plan.members.get(member.name, plan.kept.get(group.name, whole)))
            for part in member.having("consumer"):
                if part.dim == 1:
                    index = part.index[stays]
                    if part.parameter in kept:
                        index = np.searchsorted(kept[part.parameter], index)
                    found.setdefault(part.parameter, []).append((group.name, torch.from_numpy(index)))
    return found
