"""Supernet: the network of a context at all allowed widths, for methods that train many networks in one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.methods.allocation.scores import Scores
from prunelab.methods.calibration import Batch
from prunelab.methods.context import Loss, PruningContext
from prunelab.methods.importance.criterion import warn_not_pruned
from prunelab.methods.importance.l1 import L1Norm
from prunelab.methods.learning.gates import Part, scale_channels
from prunelab.methods.search.widths import Widths, WidthSpace
from prunelab.structure import PruningPlan, SlicedNetwork, change_gathered
from prunelab.training.losses import distillation

Order = dict[str, list[int]]
Run = Callable[[Tensor], Tensor]


class Supernet:
    """One set of weights for all widths that a context allows.

    A network of widths w consists of the first w_g channels of each group g in ``order``.

    Args:
        context: of the network.
        order: the channels of each group, the most important first.
    """

    def __init__(self, context: PruningContext, order: Mapping[str, Sequence[int]]) -> None:
        self.order: Order = {name: [int(channel) for channel in channels] for name, channels in order.items()}
        ranks = {name: -np.argsort(channels).astype(np.float64) for name, channels in self.order.items()}
        self.scores = Scores(ranks)
        self.space = WidthSpace.of(context, self.scores)
        self.sliced = SlicedNetwork(context.model, context.graph, self.order)
        self._columns = {group.name: column for column, group in enumerate(context.graph.groups)}
        self.full: Widths = np.array([group.size for group in context.graph.groups], dtype=np.int64)

    @classmethod
    def by_importance(cls, context: PruningContext) -> Supernet:
        """Channels in the order of the l1 norms of their filters. Groups that no weight reads are not pruned."""
        read = {group.name for group in context.groups if group.having("consumer") or group.gathers}
        scores = {name: found for name, found in L1Norm().score(context).channels.items() if name in read}
        warn_not_pruned(
            context, [g.name for g in context.groups if g.name not in scores], "cannot be ordered"
        )
        ranked = Scores(scores)
        return cls(context, {name: ranked.removal_order(name)[::-1].tolist() for name in scores})

    @classmethod
    def first_channels(cls, context: PruningContext, names: Collection[str] | None = None) -> Supernet:
        """Channels in the order of the network, of the groups of these names, or of all that may be pruned."""
        groups = [group for group in context.groups if names is None or group.name in names]
        return cls(context, {group.name: list(range(group.size)) for group in groups})

    @property
    def narrowest(self) -> Widths:
        """Every group at its smallest allowed width; int (groups,)."""
        return self.row({name: int(allowed[-1]) for name, allowed in self.space.choices.items()})

    def row(self, widths: Mapping[str, int]) -> Widths:
        """The widths of all groups; int (groups,). Groups that are not named keep their size."""
        row = self.full.copy()
        for name, width in widths.items():
            row[self._columns[name]] = width
        return row

    def column(self, group: str) -> int:
        """The index of a group in a row of widths."""
        return self._columns[group]

    def random(self, generator: np.random.Generator) -> Widths:
        """Every group at an allowed width, each equally likely; int (groups,)."""
        chosen = {n: int(generator.choice(allowed)) for n, allowed in self.space.choices.items()}
        return self.row(chosen)

    def plan(self, widths: Widths) -> PruningPlan:
        """The plan that keeps the first channels of each group."""
        return self.space.plan(widths, self.scores)

    def outputs(self, forward: Run, images: Tensor, widths: Widths, dropped: Collection[str] = ()) -> Tensor:
        """Outputs of the network of these widths; running statistics are not updated."""
        with self.sliced.at(widths.tolist(), dropped) as model, frozen_statistics(model):
            return forward(images)

    def sandwich(
        self, forward: Run, batch: Batch, narrower: Sequence[Widths], loss: Loss, temperature: float = 1.0
    ) -> Tensor:
        """The sum of ``sandwich_losses``, a scalar."""
        first, *others = self.sandwich_losses(forward, batch, narrower, loss, temperature)
        return sum(others, start=first)

    def sandwich_losses(
        self, forward: Run, batch: Batch, narrower: Sequence[Widths], loss: Loss, temperature: float = 1.0
    ) -> list[Tensor]:
        """Loss of the full network, then the distillation losses from it into each of the ``narrower`` ones.

        The sandwich rule with in-place distillation: Yu and Huang, Universally Slimmable Networks, ICCV 2019,
        arXiv:1903.05134, algorithm 1. Only the full network updates running statistics.
        """
        images, targets = batch
        teacher = forward(images)
        students = (self.outputs(forward, images, widths) for widths in narrower)
        return [loss(teacher, targets), *(distillation(each, teacher, temperature) for each in students)]

    @contextmanager
    def scaled(self, values: Mapping[str, Tensor]) -> Iterator[nn.Module]:
        """Context in which the channels of the full network are multiplied by ``values``, with gradients.

        ``values`` give each group one factor per channel, in its order; (size,). As for ``Gates`` the weights that
        read a channel are scaled.
        """
        graph, model = self.sliced.graph, self.sliced.model
        factors: dict[str, Tensor] = {}
        readers: dict[str, list[Part]] = {}
        gathers: dict[str, list[tuple[str, NDArray[np.int64]]]] = {}
        for group in graph.groups:
            if group.name not in values:
                continue
            rank = np.argsort(self.order[group.name])
            factors[group.name] = values[group.name][rank.tolist()]
            for found in group.having("consumer"):
                part = Part.of(group.name, found.dim, found.index)
                readers.setdefault(found.parameter, []).append(part)
            for gather in group.gathers:
                gathers.setdefault(gather.buffer, []).append((group.name, gather.positions))
        parameters = dict(model.named_parameters(remove_duplicate=False))
        tensors = {n: scale_channels(parameters[n], parts, factors) for n, parts in readers.items()}

        def gathered(name: str, tensor: Tensor, dim: int) -> Tensor:
            parts = [Part.of(group, dim, positions) for group, positions in gathers.get(name, ())]
            return scale_channels(tensor, parts, factors)

        with ExitStack() as stack:
            if gathers:
                stack.enter_context(change_gathered(model, gathered))
            stack.enter_context(self.sliced.at(self.full.tolist(), tensors=tensors))
            stack.enter_context(frozen_statistics(model))
            yield model


@contextmanager
def frozen_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which normalisation layers in training mode use batch statistics without updating the running ones."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]
    saved = [(norm, norm.momentum) for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    before = [None if count is None else count.clone() for count in counts]
    try:
        for norm in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum in saved:
            norm.momentum = momentum
        for count, value in zip(counts, before, strict=True):
            if count is not None and value is not None:
                count.copy_(value)


def snapped(wanted: NDArray[np.float64], choices: Sequence[Widths]) -> list[int]:
    """The allowed width nearest to each given one, the wider of two."""
    return [
        int(allowed[np.argmin(np.abs(allowed - want))]) for want, allowed in zip(wanted, choices, strict=True)
    ]
