"""TAS: the width of each group and the depth of each stage are learned, with the expected FLOPs in the loss.

Dong, Yang: Network Pruning via Transformable Architecture Search, NeurIPS 2019, arXiv:1905.09717. Compared with the
official code (github.com/D-X-Y/AutoDL-Projects).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.budget import Budget
from prunelab.methods.allocation.feasibility import require_within_reach
from prunelab.methods.calibration import Batch
from prunelab.methods.context import Loss, PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.learning.method import Forward, LearningMethod, TrainingMode
from prunelab.methods.learning.sampler import Sampler
from prunelab.methods.learning.scratch import draw_afresh
from prunelab.methods.search.supernet import Supernet, frozen_statistics
from prunelab.methods.search.transformable import Pair, StageBlocks, Transformable, stage_blocks
from prunelab.methods.search.widths import Widths
from prunelab.methods.untouched import kept_randomness
from prunelab.structure import ExpectedCost, PruningPlan

FRACTIONS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The widths of a group, as fractions of its channels."""

_LEAST = 1e-7
"""Added to probabilities before two widths are drawn."""


class TAS(LearningMethod):
    """Learns a distribution over eight widths of each group and over the depths of each stage, inside one supernet.

    With logits a (eight, one row per group) a step draws Gumbel noise g and two different widths with probabilities
    ``p = softmax((log softmax(a) + g) / tau)``; their p is normalised to sum 1. The output of each layer is
    ``sum_i p_i CWI(BN_i(O[:, :c_i]), max c)`` over the two widths c_i, where CWI is the interpolation of channels (see
    ``interpolated``). With level block the output of a stage is ``sum_d q_d F_d``, where F_d is the output after d
    blocks and q a Gumbel softmax of the logits of the stage. tau falls from ``first_temperature`` to
    ``last_temperature`` by a cosine. Two updates alternate:

    - *Weights*: cross entropy on a training batch.
    - *Logits*: Adam on a held-out batch with ``CE + strength L``, where ``L = log E[F]`` if the network of the most
      probable choices costs more than the budget, ``-log E[F]`` if it costs less than the budget minus ``tolerance``
      of the full cost, 0 between. E[F] is the cost at the expected widths ``sum_i softmax(a)_i c_i``, where a block
      counts with the probability that the stage is at least as deep.

    The result is the network of the most probable choices. The paper trains it from scratch with the full network as
    teacher (recipe.weights=fresh recipe.distillation=0.9 recipe.temperature=4).

    Departures. The paper halves the training images; here weights learn on all training images of the run and logits
    on the images held out of training (data.val_fraction=0.5 gives halves). A group that is tied by shortcuts (a
    stage) has one row of logits; the paper gives each layer its own and adds branches of different width on their
    common channels. Of a stage the last blocks go whose shortcut is the identity, see ``stage_blocks``. Depthwise
    layers and normalisations that include an activation have one scale and shift for all widths. If the most probable
    network misses the budget, depths are reduced where that costs the least probability until the budget can be met,
    and all widths are multiplied by one factor so that it is just met; the official code checks nothing.

    Args:
        budget: how much to keep.
        from_scratch: reset all weights before learning, as in the paper; False: start from the baseline.
        strength: weight of L.
        tolerance: see above.
        logit_lr, logit_weight_decay: those of Adam.
        first_temperature, last_temperature: tau at the beginning and at the end.
        settings: those of ``LearningMethod``.

    Logs learning/expected: E[F] relative to the full network; learning/certainty: the probability of the most probable
    width, averaged over groups; learning/held_out_loss: the mean CE of the logits' steps; learning/temperature: tau.

    Raises:
        UserError: a setting out of range; nothing of the network can be searched.

    Example:
        >>> method = prunelab.TAS(prunelab.Budget(flops=0.5), epochs=2)
        >>> callback = prunelab.PruningCallback(method)
        >>> callback.method.title
        'TAS'
    """

    origin: ClassVar[Origin] = Origin(
        "Dong and Yang, TAS, NeurIPS 2019",
        "https://arxiv.org/abs/1905.09717",
        code="D-X-Y/AutoDL-Projects",
        ours="one width per stage; logits learn on held-out images",
    )
    covers: ClassVar[tuple[str, ...]] = ("filter", "stage", "block")
    eager: ClassVar[bool] = True
    training_mode: ClassVar[TrainingMode] = "normalisation"
    decides_untrained: ClassVar[bool] = False

    def __init__(
        self,
        budget: Budget,
        from_scratch: bool = True,
        strength: float = 2.0,
        tolerance: float = 0.05,
        logit_lr: float = 1e-3,
        logit_weight_decay: float = 1e-3,
        first_temperature: float = 5.0,
        last_temperature: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(budget, **settings)
        if strength < 0 or tolerance < 0:
            raise UserError(f"strength={strength}, tolerance={tolerance}: use 0 or more for both.")
        if logit_lr <= 0 or logit_weight_decay < 0:
            raise UserError(
                f"logit_lr={logit_lr}, logit_weight_decay={logit_weight_decay}: the rate of Adam must be above 0, its "
                "decay 0 or more."
            )
        if not 0 < last_temperature <= first_temperature:
            raise UserError(
                f"first_temperature={first_temperature}, last_temperature={last_temperature}: temperatures must be "
                "above 0 and fall."
            )
        self.from_scratch = from_scratch
        self.strength, self.tolerance = strength, tolerance
        self.logit_lr, self.logit_weight_decay = logit_lr, logit_weight_decay
        self.first_temperature, self.last_temperature = first_temperature, last_temperature
        self._search: _Search | None = None
        self._shape: tuple[dict[str, int], dict[str, int], dict[str, list[float]]] | None = None

    @property
    def about(self) -> About:
        return replace(super().about, reads="weights, widths and depths as they train, held-out loss")

    @property
    def reads_validation(self) -> bool:
        return True

    @property
    def temperature(self) -> float:
        """The present tau."""
        fall = (1 + math.cos(math.pi * self.progress)) / 2
        return self.last_temperature + (self.first_temperature - self.last_temperature) * fall

    def prepare(self, context: PruningContext) -> None:
        require_within_reach(context)
        context.held_out_images()  # raises UserError if there are none
        if self.from_scratch:
            draw_afresh(context.model, self.seed)
        self._shape = None
        self._search = _Search(context, self.logit_lr, self.logit_weight_decay)

    def training_loss(self, context: PruningContext, batch: Batch, forward: Forward) -> Tensor:
        search = self._begun()
        images, targets = batch
        pairs, depths = search.draw(self.temperature, 2 * self.step)
        detached = {name: Pair(pair.choices, pair.shares.detach()) for name, pair in pairs.items()}
        with search.net.at(detached, [each.detach() for each in depths]):
            return self.label_loss(context)(forward(images), targets)

    def after_step(self, context: PruningContext, rates: Mapping[Tensor, float]) -> None:
        search = self._begun()
        pairs, depths = search.draw(self.temperature, 2 * self.step + 1)
        search.learn(pairs, depths, self.label_loss(context), lambda: self.strength * self._cost_loss())

    def _cost_loss(self) -> Tensor:
        """L, a scalar."""
        search = self._begun()
        space, expected = search.space, search.expected_cost()
        most_probable = search.cost_of_best()
        if most_probable > space.target:
            return expected.log()
        return (
            -expected.log()
            if most_probable < space.target - self.tolerance * space.scale
            else torch.zeros(())
        )

    def after_epoch(self, context: PruningContext) -> None:
        search = self._begun()
        search.renew()
        search.net.settle(search.net.widest)  # for the validation of the full network

    def watch(self, context: PruningContext) -> dict[str, float]:
        search = self._begun()
        return {
            "expected": float(search.expected_cost().detach()) / search.space.scale,
            "certainty": search.certainty(),
            "held_out_loss": search.mean_loss(),
            "temperature": self.temperature,
        }

    def finish(self, context: PruningContext) -> None:
        if self._search is not None:
            self._shape = self._search.shape()
            self._search.close()
            self._search = None

    def decide(self, context: PruningContext) -> PruningPlan:
        if self._shape is None:
            raise UserError("TAS decides by a learned distribution: it needs a learning fit first.")
        widths, depths, chances = self._shape
        supernet = Supernet.first_channels(context, widths)
        stages = {stage.blocks[0]: stage for stage in stage_blocks(context)}
        row = supernet.row(widths)
        depths = _within_reach(supernet, stages, depths, chances)
        dropped = [name for first, kept in depths.items() for name in stages[first].blocks[kept:]]
        alive = np.array([block.name not in dropped for block in context.graph.blocks], dtype=np.int64)
        if supernet.space.dimensions:
            row = supernet.space.scaled_to_budget(row, alive)
        return supernet.space.plan(row, supernet.scores, dropped)

    def state_dict(self) -> dict[str, Any]:
        return {} if self._search is None else self._search.sampler.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._search is not None and state_dict:
            self._search.sampler.load_state_dict(state_dict)

    def _begun(self) -> _Search:
        assert self._search is not None, "prepare comes first"
        return self._search


class _Search:
    """The supernet and the logits while they learn: one row for each group, then one for each stage."""

    def __init__(self, context: PruningContext, lr: float, weight_decay: float) -> None:
        self.context = context
        names = [group.name for group in context.groups]
        supernet = Supernet.first_channels(context, names)
        choices = {name: fractions_of(supernet.space.choices[name]) for name in names}
        self.net = Transformable(context, supernet, choices, stage_blocks(context))
        self.space = supernet.space
        warn_not_pruned(
            context, [n for n in names if n not in self.net.choices], "are not made by plain layers alone"
        )
        if not self.net.choices and not self.net.stages:
            raise UserError(f"TAS found no group or stage of {context.name} that it can search.")
        counts = [len(FRACTIONS)] * len(self.net.choices) + [len(stage.depths) for stage in self.net.stages]
        self.sampler = Sampler(len(counts), max(counts), lr, weight_decay, context.seed, counts)
        with torch.no_grad():  # as in the official code
            self.sampler.logits.normal_(0, 0.01, generator=torch.Generator().manual_seed(context.seed))
        self._cost = ExpectedCost(context.graph.cost, context.budget.resource)
        self._losses: list[float] = []
        self._held_out: Iterator[Batch] = iter(())

    def draw(self, temperature: float, draw: int) -> tuple[dict[str, Pair], list[Tensor]]:
        """Two widths of each group and the weights of the depths of each stage, the same for the same number."""
        chances = self.sampler.draw(temperature, draw)
        generator = torch.Generator().manual_seed((self.context.seed * 1_000_003 + draw) % 2**63)
        count = len(self.net.choices)
        pairs = {}
        if count:
            drawn = torch.multinomial(
                chances[:count].detach() + _LEAST, 2, replacement=False, generator=generator
            )
            for row, (name, (first, second)) in enumerate(zip(self.net.choices, drawn.tolist(), strict=True)):
                own = chances[row, [first, second]] + torch.finfo(chances.dtype).tiny
                pairs[name] = Pair((first, second), own / own.sum())
        depths = [chances[count + row, : len(stage.depths)] for row, stage in enumerate(self.net.stages)]
        return pairs, depths

    def learn(
        self, pairs: dict[str, Pair], depths: list[Tensor], loss_of: Loss, penalty: Callable[[], Tensor]
    ) -> None:
        """One step of the logits on the next held-out batch; weights and running statistics are not changed."""
        model = self.context.model
        images, targets = self._next_batch(next(model.parameters()).device)
        with kept_randomness(), torch.enable_grad(), frozen_statistics(model), self.net.at(pairs, depths):
            loss = loss_of(model(images), targets)
        self._losses.append(float(loss.detach()))
        self.sampler.descend(loss.cpu() + penalty().to(loss.dtype).cpu())

    def _next_batch(self, device: torch.device) -> Batch:
        """The next held-out images of this rank, cyclically.

        Raises:
            UserError: on all ranks, if one has none; statistics over all ranks need images of each.
        """
        batch = next(self._held_out, None)
        if batch is None:
            self._held_out = iter(self.context.held_out_images().batches(device))
            batch = next(self._held_out, None)
        if not all(gather(batch is not None)) or batch is None:
            raise UserError(
                "TAS needs images held out of training for each process: the loader has fewer batches than processes."
            )
        return batch

    def renew(self) -> None:
        """At the end of an epoch: start again with the first held-out images."""
        self._held_out = iter(())

    def mean_loss(self) -> float:
        """The mean loss of the logits' steps since the last call."""
        losses, self._losses = self._losses, []
        return float(np.mean(losses)) if losses else float("nan")

    def certainty(self) -> float:
        """The probability of the most probable choice, the mean over groups and stages."""
        return float(self.sampler.probabilities().max(dim=1).values.mean())

    def expected_cost(self) -> Tensor:
        """E[F], with gradients to the logits."""
        shares = self.sampler.expected().double()
        row = torch.from_numpy(self.net.supernet.full).double()
        for number, (name, widths) in enumerate(self.net.choices.items()):
            expected = shares[number, : len(widths)] @ torch.from_numpy(widths).double()
            row = row.index_put((torch.tensor([self.net.supernet.column(name)]),), expected)
        blocks = [block.name for block in self.context.graph.blocks]
        alive = torch.ones(len(blocks), dtype=torch.float64)
        for number, stage in enumerate(self.net.stages, start=len(self.net.choices)):
            for place, block in enumerate(stage.blocks, start=1):
                deep = torch.tensor([depth >= place for depth in stage.depths])
                chance = shares[number, : len(stage.depths)][deep].sum()
                alive = alive.index_put((torch.tensor([blocks.index(block)]),), chance)
        return self._cost(row, alive if blocks else None)

    def shape(self) -> tuple[dict[str, int], dict[str, int], dict[str, list[float]]]:
        """The most probable width of each group and depth of each stage, and the log probabilities of all depths.

        Stages go by the names of their first blocks.
        """
        best, chances = self.sampler.best().tolist(), self.sampler.probabilities()
        count = len(self.net.choices)
        widths = {name: int(found[best[row]]) for row, (name, found) in enumerate(self.net.choices.items())}
        depths, logs = {}, {}
        for row, stage in enumerate(self.net.stages, start=count):
            depths[stage.blocks[0]] = stage.depths[best[row]]
            logs[stage.blocks[0]] = chances[row, : len(stage.depths)].log().tolist()
        return widths, depths, logs

    def cost_of_best(self) -> float:
        """The cost of the network of the most probable choices."""
        widths, depths, _ = self.shape()
        stages = {stage.blocks[0]: stage for stage in self.net.stages}
        dropped = {name for first, kept in depths.items() for name in stages[first].blocks[kept:]}
        alive = np.array([[block.name not in dropped for block in self.context.graph.blocks]], dtype=np.int64)
        return float(self.space.costs(self.net.supernet.row(widths)[None], alive)[0])

    def close(self) -> None:
        """Make the network an ordinary one again, with the norms of the most probable widths."""
        best = self.sampler.best().tolist()
        self.net.close({name: best[row] for row, name in enumerate(self.net.choices)})


def fractions_of(allowed: Widths) -> Widths:
    """Of the allowed widths (widest first) those nearest to ``FRACTIONS`` of the widest; rising, (8,)."""
    wanted = np.array(FRACTIONS) * allowed[0]
    return allowed[np.abs(allowed[:, None] - wanted).argmin(axis=0)]


def _within_reach(
    supernet: Supernet,
    stages: Mapping[str, StageBlocks],
    depths: Mapping[str, int],
    chances: Mapping[str, list[float]],
) -> dict[str, int]:
    """Depths with which the budget can be met, by narrow widths at least.

    A stage loses blocks where the next smaller depth costs the least log probability.

    Raises:
        UserError: the smallest depths and widths exceed the budget.
    """
    found, context = dict(depths), supernet.space.context
    narrowest = supernet.narrowest[None]
    while True:
        dropped = {name for first, kept in found.items() for name in stages[first].blocks[kept:]}
        alive = np.array([[block.name not in dropped for block in context.graph.blocks]], dtype=np.int64)
        if supernet.space.costs(narrowest, alive)[0] <= supernet.space.target:
            return found
        losses = {}
        for first, kept in found.items():
            if (place := stages[first].depths.index(kept)) > 0:
                losses[first] = chances[first][place] - chances[first][place - 1]
        if not losses:
            raise UserError(
                f"TAS cannot meet {context.budget} for {context.name} with levels [{', '.join(context.levels)}]: it "
                "keeps blocks of each stage. Keep more, or add a level."
            )
        first = min(losses, key=lambda name: losses[name])
        found[first] = stages[first].depths[stages[first].depths.index(found[first]) - 1]
