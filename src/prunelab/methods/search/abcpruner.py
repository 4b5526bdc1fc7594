"""ABCPruner: an artificial bee colony searches the widths; a candidate is judged after a short training.

Lin, Ji, Zhang, Zhang, Wu, Tian: Channel Pruning via Automatic Structure Search, IJCAI 2020, arXiv:2001.08565,
algorithm 1. Compared with the official code (github.com/lmbxmu/ABCPruner).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from prunelab.errors import UserError, nearest
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.importance.members import score_members
from prunelab.methods.importance.random_scores import Random
from prunelab.methods.search.batch_norm import adapt_batch_norm
from prunelab.methods.search.judge import Judge, calibration_images
from prunelab.methods.search.method import SearchMethod
from prunelab.methods.search.widths import Candidate, WidthSpace
from prunelab.methods.search.write_back import write_back
from prunelab.methods.untouched import untouched
from prunelab.structure import PruningPlan, candidate

if TYPE_CHECKING:
    from prunelab.training import Training

Order = Literal["random", "l1"]
Code = NDArray[np.int64]

PARTS = 10
"""A code is a width in tenths of the channels."""


class ABCPruner(SearchMethod):
    """A colony of ``sources`` codes; each code h gives group l the width ``n_l h_l / 10``, h_l in 1..max_preserve.

    A cycle has three phases:

    - *Employed bees*: each source i proposes ``h'_l = round(h_l + r (h_l - g_l))`` at two random places l, where g is
      another random source and r ~ U(-1, 1), limited to 1..max_preserve. It replaces the source if its fitness is
      higher; otherwise the failed trials of the source increase by one.
    - *Onlooker bees*: the same move for sources that are drawn with probability ``0.9 f_i / max f + 0.1``, where f is
      the fitness, until there are as many moves as sources.
    - *Scout bee*: the source with the most failed trials, if there are ``food_limit`` or more, is drawn again.

    The fitness is the held-out accuracy after ``training`` of the network that inherits weights and normalisation
    from the full network. The result is the code of highest fitness. ``reconstruct`` repeats the training of the
    winner, with the same seed, and the recovery starts from these weights, as in the paper.

    Addition: the paper has no budget; max_preserve alone limits the widths. Here the fractions ``1 - h_l / 10`` that a
    code removes are multiplied by the smallest number with which the network meets the budget, before it is judged.

    Differences from the official code. Fitness is measured on held-out images, not on the test set. New codes are
    rounded; ``int`` in the official code makes codes drift to narrow networks. Random filters and places are drawn from
    all; the official code never draws the last ones. Random filters are drawn once for a seed, not for each evaluation,
    so that equal widths have equal fitness and are judged once. BatchNorm parameters and statistics are inherited. All
    moves of a phase start from the sources before the phase, so that they form one batch. The paper's networks lose
    channels only inside blocks (levels=[filter]), with one code per block; here each group has its own code.

    Args:
        budget: how much to keep.
        training: training of each candidate before it is judged; None: no training, only the BatchNorm statistics are
            measured again on the calibration images.
        sources: number of codes of the colony.
        cycles: number of cycles.
        food_limit: failed trials after which a source is drawn again.
        max_preserve: largest code, in tenths of the channels.
        order: which channels of a group a candidate keeps: "random" ones, as in the paper, or those of largest "l1"
            norm.
        workers: 1, unless ``training`` is None.
        settings: those of ``SearchMethod``.

    Raises:
        UserError: a setting out of range; candidates cannot be trained (in your own Trainer).

    Example:
        >>> method = prunelab.ABCPruner(prunelab.Budget(flops=0.5), sources=4, cycles=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'ABCPruner'
    """

    origin: ClassVar[Origin] = Origin(
        "Lin et al., ABCPruner, IJCAI 2020",
        "https://arxiv.org/abs/2001.08565",
        code="lmbxmu/ABCPruner",
        ours="projection onto the budget",
    )

    def __init__(
        self,
        budget: Budget,
        training: Training | None = None,
        sources: int = 10,
        cycles: int = 10,
        food_limit: int = 5,
        max_preserve: int = 9,
        order: Order = "random",
        workers: int = 1,
        **settings: Any,
    ) -> None:
        super().__init__(budget, workers, **settings)
        if sources < 2:
            raise UserError(f"sources={sources}: a move needs two sources: use 2 or more.")
        if cycles < 0 or food_limit < 1:
            raise UserError(
                f"cycles={cycles}, food_limit={food_limit}: use 0 or more cycles, a limit of 1 or more."
            )
        if not 1 <= max_preserve < PARTS:
            raise UserError(f"max_preserve={max_preserve} is not a number of tenths from 1 to {PARTS - 1}.")
        if order not in get_args(Order):
            raise UserError(f"order={order!r} does not exist. {nearest(str(order), get_args(Order))}")
        if training is not None and workers > 1:
            raise UserError(f"workers={workers}: candidates are trained one after another, so use workers=1.")
        self.training = training
        self.sources, self.cycles, self.food_limit = sources, cycles, food_limit
        self.max_preserve, self.order = max_preserve, order

    @property
    def about(self) -> About:
        epochs = 0 if self.training is None else self.training.epochs
        moves = self.sources * (1 + 2 * self.cycles)
        cost = f"about {moves} candidates, each trained for {epochs} epochs"
        return replace(super().about, reads="weights, held-out accuracy", cost=cost)

    @property
    def reconstructs(self) -> bool:
        return True

    def ranking(self, context: PruningContext) -> Scores:
        return score_members(Random() if self.order == "random" else L1Norm(), context)

    def judge(self, context: PruningContext) -> Judge:
        if self.training is None:
            return Judge(context, self.workers)
        return Judge(context, adapt=False, prepare=lambda network, plan: self._train(context, network, plan))

    def _train(self, context: PruningContext, network: nn.Module, plan: PruningPlan) -> None:
        assert self.training is not None
        context.train(network, self.training.epochs, self.training, f"candidate-{plan.digest()[:8]}")

    def reconstruct(self, context: PruningContext, plan: PruningPlan) -> None:
        """Restore the weights and statistics with which the winner was judged, by training it again."""
        with untouched(context.model, context.device, context.seed):
            network = candidate(context.model, plan)
            if self.training is None:
                adapt_batch_norm(network, calibration_images(context))
            else:
                with torch.enable_grad():
                    self._train(context, network.requires_grad_(True), plan)
        write_back(context.model, plan, network)

    # The colony.

    @property
    def planned(self) -> int | None:
        return self.sources * (1 + 2 * self.cycles)

    def start(self, context: PruningContext, space: WidthSpace) -> None:
        self._space = space
        self._generator = np.random.default_rng(self.seed)
        self._phase, self._cycle = "first", 0
        self._moves: list[tuple[int, Code]] = []
        self._codes = np.zeros((self.sources, space.dimensions), dtype=np.int64)
        self._fitness = np.full(self.sources, -np.inf)
        self._trials = np.zeros(self.sources, dtype=np.int64)

    def ask(self) -> Sequence[Candidate]:
        """The candidates of the next phase that has moves."""
        while not self._next_moves():
            if self._phase == "over":
                return []
        rates = 1 - np.stack([code for _, code in self._moves]) / PARTS
        rows = self._space.shrunk_to_budget(rates)  # no row is left out, because rates are 0.1 or more
        return [Candidate(tuple(row.tolist())) for row in rows]

    def _next_moves(self) -> list[tuple[int, Code]]:
        """The moves of the current phase, (source, new code) each; the next ``ask`` continues with the phase after."""
        phase = self._phase
        if phase == "first":
            self._phase = "employed" if self.cycles else "over"
            self._moves = [(source, self._drawn()) for source in range(self.sources)]
        elif phase == "employed":
            self._phase = "onlooker"
            self._moves = [(source, self._moved(source)) for source in range(self.sources)]
        elif phase == "onlooker":
            self._phase = "scout"
            self._moves = [(source, self._moved(source)) for source in self._visited()]
        elif phase == "scout":
            self._cycle += 1
            self._phase = "over" if self._cycle == self.cycles else "employed"
            self._moves = self._scouted()
        else:
            self._moves = []
        return self._moves

    def _drawn(self) -> Code:
        return self._generator.integers(1, self.max_preserve + 1, self._space.dimensions)

    def _moved(self, source: int) -> Code:
        """A modified code of ``source``."""
        other = int(self._generator.integers(self.sources - 1))
        other += other >= source  # a source other than this one
        places = self._generator.integers(self._space.dimensions, size=2)
        factors = self._generator.uniform(-1, 1, size=2)
        return moved(self._codes[source], self._codes[other], places, factors, self.max_preserve)

    def _visited(self) -> list[int]:
        """The sources drawn by onlooker bees."""
        chances = visiting_chances(self._fitness)
        visited: list[int] = []
        source = 0
        while len(visited) < self.sources:
            if self._generator.random() < chances[source]:
                visited.append(source)
            source = (source + 1) % self.sources
        return visited

    def _scouted(self) -> list[tuple[int, Code]]:
        """At most one exhausted source, drawn again."""
        source = int(self._trials.argmax())
        if self._trials[source] < self.food_limit:
            return []
        self._fitness[source] = -np.inf  # the new code replaces the source with any fitness
        return [(source, self._drawn())]

    def tell(self, candidate: Candidate, score: float) -> None:
        source, code = self._moves.pop(0)
        if score > self._fitness[source]:
            self._codes[source], self._fitness[source], self._trials[source] = code, score, 0
        else:
            self._trials[source] += 1

    def state_dict(self) -> dict[str, Any]:
        return {
            "phase": self._phase,
            "cycle": self._cycle,
            "moves": [(source, code.tolist()) for source, code in self._moves],
            "codes": self._codes.tolist(),
            "fitness": self._fitness.tolist(),
            "trials": self._trials.tolist(),
            "generator": self._generator.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._phase, self._cycle = state["phase"], state["cycle"]
        self._moves = [(source, np.array(code, dtype=np.int64)) for source, code in state["moves"]]
        self._codes = np.array(state["codes"], dtype=np.int64).reshape(self._codes.shape)
        self._fitness, self._trials = np.array(state["fitness"]), np.array(state["trials"], dtype=np.int64)
        self._generator.bit_generator.state = state["generator"]


def moved(code: Code, other: Code, places: Code, factors: NDArray[np.float64], largest: int) -> Code:
    """``round(h_l + r (h_l - g_l))`` at each place l with its factor r, limited to 1..largest; elsewhere h.

    Args:
        code, other: h and g, (groups,).
        places, factors: l and r, (moves,); of two moves at one place the second is used.
    """
    new = code.copy()
    for place, factor in zip(places, factors, strict=True):
        new[place] = np.clip(np.rint(code[place] + factor * (code[place] - other[place])), 1, largest)
    return new


def visiting_chances(fitness: NDArray[np.float64]) -> NDArray[np.float64]:
    """``0.9 f_i / max f + 0.1``, the probability that an onlooker bee visits source i; 1 if all fitness is 0."""
    best = fitness.max()
    return 0.9 * fitness / best + 0.1 if best > 0 else np.ones_like(fitness)
