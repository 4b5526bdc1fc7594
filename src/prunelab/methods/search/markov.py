"""A Markov chain over the width of each group: each step of a group is kept only if the previous step is kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from prunelab.methods.search.widths import Widths


class MarkovWidths:
    """Distributions over the widths of groups (Guo et al., DMCP, CVPR 2020, equations 2 to 5).

    A group has rising widths ``w_0 < w_1 < ... < w_K``. Given that ``w_{k-1}`` is reached, ``w_k`` is reached with
    probability ``sigmoid(a_k)``, so that with the marginals ``p_k = prod_{i <= k} sigmoid(a_i)``

        E[width] = w_0 + sum_k (w_k - w_{k-1}) p_k.

    Args:
        widths: for each group its rising widths (K + 1,).

    Attributes:
        logits: ``a``, (groups, largest K), with gradients; entries after a group's own K have no effect.
    """

    def __init__(self, widths: Mapping[str, Widths]) -> None:
        self.widths = {name: np.asarray(found, dtype=np.int64) for name, found in widths.items()}
        steps = max((len(found) - 1 for found in self.widths.values()), default=0)
        growth = torch.zeros(len(self.widths), steps, dtype=torch.float64)
        for row, found in enumerate(self.widths.values()):
            growth[row, : len(found) - 1] = torch.from_numpy(np.diff(found))
        self.growth = growth
        self.first = torch.tensor([int(found[0]) for found in self.widths.values()], dtype=torch.float64)
        self.logits = torch.zeros(len(self.widths), steps, dtype=torch.float64, requires_grad=True)

    def marginals(self, offset: float = 0.0) -> Tensor:
        """``p``, (groups, largest K), with gradients; ``offset`` is added to all logits."""
        return torch.sigmoid(self.logits + offset).cumprod(dim=1)

    def expected(self, offset: float = 0.0) -> Tensor:
        """E[width], (groups,), with gradients."""
        return self.first + (self.growth * self.marginals(offset)).sum(dim=1)

    def gates(self) -> dict[str, Tensor]:
        """For each group a factor per channel in the order of the chain: 1 for the first w_0, then p_k; (size,)."""
        gates = {}
        for row, (name, found) in enumerate(self.widths.items()):
            repeats = torch.from_numpy(np.diff(found))
            marginals = self.marginals()[row, : len(repeats)]
            gates[name] = torch.cat([marginals.new_ones(int(found[0])), marginals.repeat_interleave(repeats)])
        return gates

    def sample(self, generator: np.random.Generator) -> dict[str, int]:
        """A width for each group, drawn from its chain."""
        chances = torch.sigmoid(self.logits.detach()).numpy()
        drawn = {}
        for row, (name, found) in enumerate(self.widths.items()):
            stays = generator.random(len(found) - 1) < chances[row, : len(found) - 1]
            drawn[name] = int(found[int(np.cumprod(stays).sum())])
        return drawn

    def uniform(self, generator: np.random.Generator) -> dict[str, int]:
        """A width for each group, all equally likely."""
        return {name: int(generator.choice(found)) for name, found in self.widths.items()}


def grid(allowed: Widths, steps: int) -> Widths:
    """The allowed widths nearest to 1/steps, 2/steps, ... of the widest; rising, each once. ``allowed`` is widest
    first."""
    wanted = np.arange(1, steps + 1) / steps * allowed[0]
    return np.unique(allowed[np.abs(allowed[:, None] - wanted).argmin(axis=0)])
