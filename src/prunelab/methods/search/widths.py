"""The space of the widths of all groups of a network, and their costs, in rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prunelab.methods.allocation.candidate_widths import allowed_widths
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.step_search import allowed_cost, cost_function, full_cost
from prunelab.methods.context import PruningContext
from prunelab.structure import PruningPlan

Widths = NDArray[np.int64]
Rates = NDArray[np.float64]

_HALVINGS = 40


@dataclass(frozen=True)
class Candidate:
    """One network of a search space.

    Attributes:
        widths: width of each group of the graph, in the order of ``graph.groups``.
        dropped: names of the dropped blocks, sorted.

    Example:
        >>> prunelab.Candidate((8, 16)).dropped
        ()
    """

    widths: tuple[int, ...]
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class WidthSpace:
    """All networks that the groups of a context allow, as rows of widths (one row per network).

    Args:
        context: levels, min_keep, divisor and budget of the space.
        choices: allowed widths of each prunable group, widest first; other groups keep their size.
        blocks: names of the blocks that may be dropped.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> method = prunelab.ImportanceMethod(prunelab.L1Norm(), prunelab.Budget(flops=0.5))
        >>> context = method.context(network, torch.zeros(1, 3, 8, 8))
        >>> scores, _ = method.scored(context)
        >>> space = prunelab.WidthSpace.of(context, scores)
        >>> space.dimensions
        1
    """

    context: PruningContext
    choices: Mapping[str, Widths]
    blocks: tuple[str, ...] = ()

    @classmethod
    def of(cls, context: PruningContext, scores: Scores) -> WidthSpace:
        """The space over the groups of ``context`` with scores; for others the order of removal is unknown."""
        full = {group.name: group.size for group in (context.reference or context.graph).groups}
        min_keep, divisor = context.allocation.min_keep, context.allocation.divisor
        choices = {}
        for group in context.groups:
            if group.name in scores.channels:
                least = min(1.0, min_keep * full.get(group.name, group.size) / group.size)
                choices[group.name] = allowed_widths(group.size, least, divisor)
        return cls(context, choices, tuple(block.name for block in context.blocks))

    @property
    def dimensions(self) -> int:
        """The number of groups with a choice of widths."""
        return len(self.choices)

    @property
    def target(self) -> float:
        """The largest cost that a network may have."""
        return allowed_cost(self.context.reference or self.context.graph, self.context.budget)

    @property
    def scale(self) -> float:
        """The cost of the full network, of which budgets are fractions."""
        return full_cost(self.context.reference or self.context.graph, self.context.budget.resource)

    def widths(self, rates: Rates) -> Widths:
        """The widths (B, groups of the graph) that remove these fractions (B, dimensions) of the channels.

        Rounded to the nearest allowed width, the wider of two.
        """
        groups = self.context.graph.groups
        rows = np.tile(np.array([group.size for group in groups], dtype=np.int64), (len(rates), 1))
        columns = {group.name: column for column, group in enumerate(groups)}
        for rate, (name, allowed) in zip(rates.T, self.choices.items(), strict=True):
            wanted = allowed[0] * (1 - rate)
            halfway = (allowed[:-1] + allowed[1:]) / 2  # falling, one for each step down
            rows[:, columns[name]] = allowed[(wanted[:, None] < halfway).sum(axis=1)]
        return rows

    def uniform(self, keep: float) -> Candidate:
        """Every group at the allowed width nearest to the fraction ``keep`` of its channels; no block is dropped."""
        row = self.widths(np.full((1, self.dimensions), 1 - keep))[0]
        return Candidate(tuple(row.tolist()))

    def costs(self, widths: Widths, alive: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """The cost of each row (B, groups of the graph), in the resource of the budget.

        ``alive`` (B, blocks of the graph): 1 for kept blocks, 0 for dropped ones; None: all are kept.
        """
        costs = cost_function(self.context.graph, self.context.budget.resource)(widths, alive)
        return np.asarray(costs, dtype=np.float64)

    def cost(self, candidate: Candidate) -> float:
        """The cost of one candidate, in the resource of the budget."""
        blocks = self.context.graph.blocks
        alive = np.array([[block.name not in candidate.dropped for block in blocks]], dtype=np.int64)
        return float(self.costs(np.array([candidate.widths], dtype=np.int64), alive)[0])

    def shrunk_to_budget(self, rates: Rates) -> Widths:
        """The widths (B', groups) of these strategies with each row of rates multiplied by the smallest number that
        meets the budget; rows without such a number are left out."""
        enough = 1 / np.maximum(rates.min(axis=1), 1e-3)  # gives the narrowest network of a row
        meets = self.costs(self.widths(self._scaled(rates, enough))) <= self.target
        rates, enough = rates[meets], enough[meets]
        too_little = np.zeros(len(rates))
        for _ in range(_HALVINGS):
            middle = (too_little + enough) / 2
            fits = self.costs(self.widths(self._scaled(rates, middle))) <= self.target
            enough, too_little = np.where(fits, middle, enough), np.where(fits, too_little, middle)
        return self.widths(self._scaled(rates, enough))

    def scaled_to_budget(self, widths: Widths, alive: NDArray[np.int64] | None = None) -> Widths:
        """All widths (groups of the graph,) after multiplication by the largest factor that meets the budget.

        Each becomes the nearest allowed width; groups without a choice keep their size. The narrowest network, if no
        factor meets the budget. ``alive`` (blocks of the graph,): as for ``costs``, of this network.
        """
        columns = {group.name: column for column, group in enumerate(self.context.graph.groups)}
        own = np.array([columns[name] for name in self.choices], dtype=np.int64)
        full = np.array([allowed[0] for allowed in self.choices.values()], dtype=np.float64)
        kept = widths[own] / full
        living = None if alive is None else alive[None]

        def fits(factor: float) -> bool:
            row = self.widths(1 - factor * kept[None])
            return bool(self.costs(row, living)[0] <= self.target)

        low, high = 0.0, float(np.max(1 / kept, initial=1.0))
        if fits(high):
            low = high
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        return self.widths(1 - low * kept[None])[0]

    def plan(
        self, widths: Sequence[int] | Widths, scores: Scores, dropped: Sequence[str] = ()
    ) -> PruningPlan:
        """The plan that keeps the ``widths`` (groups of the graph,) channels of highest score in each group and drops
        the blocks ``dropped``."""
        graph = self.context.graph
        kept: dict[str, Sequence[int]] = {
            group.name: np.sort(scores.removal_order(group.name)[::-1][: int(width)]).tolist()
            for group, width in zip(graph.groups, widths, strict=True)
            if group.name in self.choices
        }
        for group in graph.groups:
            if scores.members and group.name in kept:
                kept |= scores.of_members(group, len(kept[group.name]))
        return graph.plan(kept, dropped)

    @staticmethod
    def _scaled(rates: Rates, factors: Rates) -> Rates:
        return np.minimum(rates * factors[:, None], 1.0)
