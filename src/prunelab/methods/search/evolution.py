"""Evolution of widths within a window of costs, as in MetaPruning.

Liu et al.: MetaPruning, ICCV 2019, arXiv:1903.10258, algorithm 1. Compared with the official code
(github.com/liuzechun/MetaPruning).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunelab.errors import UserError
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.search.judge import Judge
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.pruning_net import PruningNet
from prunelab.methods.search.widths import Candidate, Widths, WidthSpace

Genes = NDArray[np.int64]

RATIOS = np.arange(10, 101, 3) / 100
"""A gene is the index of one of 31 widths of a group: 0.10, 0.13, ..., 1.00 of its channels."""

_FIRST = (int(0.4 * len(RATIOS)), int(0.8 * len(RATIOS)))
"""Random genes are drawn from 12 to 23, ratios 0.46 to 0.79."""

_ROUNDS = 10
"""Attempts to find each number of candidates."""

_DRAWS = 1000
"""Random networks of one attempt."""


@dataclass(frozen=True)
class Schedule:
    """The settings of an evolution, see ``MetaPruning``.

    Raises:
        UserError: a setting out of range.
    """

    population: int = 50
    generations: int = 20
    parents: int = 10
    mutants: int = 25
    crossovers: int = 25
    mutation: float = 0.1
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        for name in ("population", "generations", "parents"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: at least 1 is needed.")
        if self.mutants < 0 or self.crossovers < 0 or self.mutants + self.crossovers > self.population:
            raise UserError(
                f"mutants={self.mutants}, crossovers={self.crossovers}: use 0 or more, together at most "
                f"population={self.population}."
            )
        if not 0 < self.mutation <= 1:
            raise UserError(f"mutation={self.mutation} is not a probability above 0.")
        if not 0 < self.tolerance < 1:
            raise UserError(f"tolerance={self.tolerance} is not a fraction of the budget between 0 and 1.")


class Evolution(SearchMethod):
    """The best of several generations of width vectors, judged with weights that a ``PruningNet`` generates.

    Args:
        budget: how much to keep.
        net: generates the weights of candidates.
        schedule: numbers of candidates.
        settings: those of ``SearchMethod``.
    """

    def __init__(self, budget: Budget, net: PruningNet, schedule: Schedule, **settings: Any) -> None:
        super().__init__(budget, **settings)
        self.net, self.schedule = net, schedule

    @property
    def title(self) -> str:
        return "MetaPruning"

    @property
    def planned(self) -> int | None:
        return self.schedule.population * self.schedule.generations

    def ranking(self, context: PruningContext) -> Scores:
        return self.net.supernet.scores

    def judge(self, context: PruningContext) -> Judge:
        return Judge(context, self.workers, weights=self.net.cropped)

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self._space = space
        self._generator = np.random.default_rng(self.seed)
        self._generation = 0
        self._asked: list[Genes] = []
        self._known: dict[Candidate, tuple[Genes, float]] = {}

    def ask(self) -> Sequence[Candidate]:
        """The next generation."""
        if self._generation == self.schedule.generations:
            return []
        self._generation += 1
        born: dict[Candidate, Genes] = {}
        if self._known:
            parents = np.stack(self._best())
            self._mutate(parents, born)
            self._cross(parents, born)
        self._draw(born)
        self._asked = list(born.values())
        return list(born)

    def tell(self, candidate: Candidate, score: float) -> None:
        self._known[candidate] = (self._asked.pop(0), score)

    def _best(self) -> list[Genes]:
        """The genes of the best networks so far, of equal ones the earlier."""
        ranked = sorted(self._known.values(), key=lambda each: -each[1])
        return [genes for genes, _ in ranked[: self.schedule.parents]]

    def _mutate(self, parents: Genes, born: dict[Candidate, Genes]) -> None:
        count, wanted = self.schedule.mutants, len(born) + self.schedule.mutants
        for _ in range(_ROUNDS):
            if len(born) < wanted:
                chosen = parents[self._generator.integers(len(parents), size=count)]
                changed = self._generator.random(chosen.shape) < self.schedule.mutation
                offsets = self._generator.integers(1, len(RATIOS), chosen.shape)
                self._accept(mutated(chosen, changed, offsets), born, wanted)

    def _cross(self, parents: Genes, born: dict[Candidate, Genes]) -> None:
        count, wanted = self.schedule.crossovers, len(born) + self.schedule.crossovers
        if len(parents) < 2:
            return
        for _ in range(_ROUNDS):
            if len(born) < wanted:
                first = self._generator.integers(len(parents), size=count)
                second = self._generator.integers(len(parents) - 1, size=count)
                second += second >= first  # another one
                from_first = self._generator.random((count, parents.shape[1])) < 0.5
                self._accept(np.where(from_first, parents[first], parents[second]), born, wanted)

    def _draw(self, born: dict[Candidate, Genes]) -> None:
        """Fill up the population with random networks."""
        wanted, genes = self.schedule.population, self._space.dimensions
        for _ in range(_ROUNDS):
            if len(born) < wanted:
                self._accept(self._generator.integers(*_FIRST, (_DRAWS, genes)), born, wanted)
        for _ in range(_ROUNDS * (wanted - len(born))):
            if len(born) < wanted:
                moved = self._moved(self._generator.integers(*_FIRST, genes))
                self._accept(moved[None], born, wanted, least=0.0)

    def _accept(
        self, rows: Genes, born: dict[Candidate, Genes], wanted: int, least: float | None = None
    ) -> None:
        """Add the networks of ``rows`` that are new and inside the window, up to ``wanted`` of them."""
        least = 1 - self.schedule.tolerance if least is None else least
        widths = self._widths(rows)
        costs, target = self._space.costs(widths), self._space.target
        for row, own, cost in zip(rows, widths.tolist(), costs, strict=True):
            candidate = Candidate(tuple(own))
            if len(born) < wanted and least * target <= cost <= target and candidate not in self._known:
                born.setdefault(candidate, row)

    def _moved(self, genes: Genes) -> Genes:
        """One number added to all genes, the largest within the budget, then 1 to single ones while this fits."""
        shifts = np.arange(-len(RATIOS) + 1, len(RATIOS))
        rows = np.clip(genes + shifts[:, None], 0, len(RATIOS) - 1)
        fits = self._space.costs(self._widths(rows)) <= self._space.target
        row: Genes = rows[int(np.flatnonzero(fits)[-1])] if fits.any() else rows[0]
        for place in self._generator.permutation(len(row)):
            more = row.copy()
            more[place] = min(more[place] + 1, len(RATIOS) - 1)
            if self._space.costs(self._widths(more[None]))[0] <= self._space.target:
                row = more
        return row

    def _widths(self, rows: Genes) -> Widths:
        return self._space.widths(1 - RATIOS[rows])

    def state_dict(self) -> dict[str, Any]:
        return {
            "generation": self._generation,
            "asked": [genes.tolist() for genes in self._asked],
            "known": [(list(each.widths), genes.tolist(), s) for each, (genes, s) in self._known.items()],
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generation = state["generation"]
        self._asked = [np.array(genes, dtype=np.int64) for genes in state["asked"]]
        self._known = {
            Candidate(tuple(widths)): (np.array(genes, dtype=np.int64), score)
            for widths, genes, score in state["known"]
        }
        self._generator.bit_generator.state = state["generator"]


def mutated(genes: Genes, changed: NDArray[np.bool_], offsets: Genes) -> Genes:
    """``(gene + offset) mod 31`` where ``changed``, with offsets of 1 to 30, so that such a gene is never the same."""
    return np.where(changed, (genes + offsets) % len(RATIOS), genes)
