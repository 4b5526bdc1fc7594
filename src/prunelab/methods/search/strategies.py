"""Random strategies (a pruning rate for each group) that meet a budget, drawn without pruning a network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.methods.search.widths import Widths, WidthSpace

BATCH = 4096
"""Number of strategies in one call of the cost model."""


@dataclass(frozen=True)
class StrategySampler:
    """Draws ``count`` different strategies with rates r ~ U[min_rate, min_rate + max_rate] for each group.

    tolerance: strategies may cost up to this fraction of the full network less than the budget.
    draws: how many strategies to compare with the budget at most.
    scale: if too few of them meet it, multiply the rates of others by the smallest number with which they do.

    Raises:
        UserError: rates out of range, or a tolerance below 0.
    """

    count: int
    min_rate: float
    max_rate: float
    tolerance: float
    draws: int
    scale: bool

    def __post_init__(self) -> None:
        if not 0 <= self.min_rate <= self.min_rate + self.max_rate <= 1 or self.max_rate == 0:
            raise UserError(
                f"min_rate={self.min_rate} and max_rate={self.max_rate}: rates are drawn between min_rate and "
                "min_rate + max_rate, which must be different fractions from 0 to 1."
            )
        if self.tolerance < 0:
            raise UserError(
                f"tolerance={self.tolerance} is not a fraction of the full network: use 0 or more."
            )

    def draw(self, space: WidthSpace) -> Widths:
        """Different widths (at most ``count``, groups of the graph) within the budget, the same for one seed.

        Raises:
            UserError: none (without ``scale``: too few) of the draws meet the budget.
        """
        generator = np.random.default_rng(space.context.seed)
        least = space.target - self.tolerance * space.scale
        found: dict[bytes, np.ndarray] = {}
        drawn = 0
        while len(found) < self.count and drawn < self.draws:
            widths = space.widths(self._rates(generator, space))
            costs = space.costs(widths)
            self._add(found, widths[(least <= costs) & (costs <= space.target)])
            drawn += BATCH
        budget = space.context.budget
        if len(found) < self.count and not self.scale:
            raise UserError(
                f"Only {len(found)} of {drawn} strategies meet {budget} within {self.tolerance:g}: {self._advice()}"
            )
        if len(found) < self.count:
            info(
                f"{len(found)} of {drawn} strategies meet {budget} within {self.tolerance:g}; rates of others are "
                "scaled until they do."
            )
            self._add(found, space.shrunk_to_budget(self._rates(generator, space)))
        if not found:
            raise UserError(f"No strategy meets {budget}: {self._advice()}")
        return np.stack(list(found.values()))

    def _rates(self, generator: np.random.Generator, space: WidthSpace) -> np.ndarray:
        return self.min_rate + self.max_rate * generator.random((BATCH, space.dimensions))

    def _add(self, found: dict[bytes, np.ndarray], rows: Widths) -> None:
        for row in rows:
            if len(found) == self.count:
                return
            found.setdefault(row.tobytes(), row)

    def _advice(self) -> str:
        return (
            f"rates are drawn between {self.min_rate:g} and {self.min_rate + self.max_rate:g}. Change max_rate "
            "(the paper: 0.4 to keep 3/4, 0.7 to keep 1/2, 0.8 to keep 1/4), or raise tolerance."
        )
