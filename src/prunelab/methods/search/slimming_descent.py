"""Greedy slimming: starting from the widest network of a supernet, channels of one group are removed in each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.distributed.messages import info
from prunelab.distributed.ranks import on_all_ranks, sum_over_ranks, world
from prunelab.methods.calibration import Batch
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.prefix import Prefix, Schedule, record_outputs, record_schedule
from prunelab.methods.search.judge import held_out_batches
from prunelab.methods.search.markov import grid
from prunelab.methods.search.state import SearchState
from prunelab.methods.search.supernet import Supernet, frozen_statistics
from prunelab.methods.search.widths import Widths
from prunelab.methods.untouched import untouched
from prunelab.structure import ChannelGroup


@dataclass(frozen=True)
class Descent:
    """From full widths, the group whose next narrower width costs the least accuracy takes it, until the budget is met.

    Of equal accuracies the one with the smaller cross entropy is chosen. The path of the descent does not depend on the
    budget, so that one descent serves several: with a state in ``context.folder`` a smaller budget continues where a
    larger one ended. The result is the first network of the path that meets the budget; the group that was changed last
    keeps as many channels as the budget allows. Networks run over the held-out images with the batch statistics of
    these images, and are compared by their error, not by error per removed FLOP.

    A candidate differs from the current network in one group. All modules that finish before the first module with
    channels of the group return cached outputs of the current network (``reuse``); the decisions are the same without
    it.

    context: budget, held-out images, and the folder of the state, which is written after each decision.
    supernet: the trained weights for all widths.
    steps: number of widths of each group.
    reuse: whether candidates reuse outputs of the current network.

    All candidates are evaluated in each step. Errors of an earlier step are no lower bounds: with lazy evaluation,
    which takes them as such, about half of the decisions differ (experiments/benchmarks/search.py).
    """

    context: PruningContext
    supernet: Supernet
    steps: int
    reuse: bool = True

    def __call__(self) -> Widths:
        """The widths of all groups, int (groups,).

        Raises:
            UserError: there are no held-out images, or their targets are not classes.
        """
        state = SearchState(self.context.folder, self.context.write)
        found = state.load()
        path = [self.supernet.full] if found is None else [np.array(row) for row in found["path"]]
        batches = held_out_batches(self.context)
        grids = {name: grid(allowed, self.steps) for name, allowed in self.supernet.space.choices.items()}
        with untouched(self.context.model, self.context.device, self.context.seed), torch.no_grad():
            prefixes = self._prefixes(batches[0][0]) if self.reuse else {}
            while not self._fits(np.stack(path)).any():
                path.append(self._best(path[-1], self._moves(path[-1], grids), batches, prefixes))
                state.save({"path": [row.tolist() for row in path]})
        row = self._result(path)
        kept = self.supernet.space.costs(row[None])[0] / self.supernet.space.scale
        info(f"Greedy slimming ended at {kept:.1%} of the cost.")
        return row

    def _fits(self, rows: Widths) -> NDArray[np.bool_]:
        """Which of these widths (B, groups) meet the budget."""
        found: NDArray[np.bool_] = self.supernet.space.costs(rows) <= self.supernet.space.target
        return found

    def _result(self, path: Sequence[Widths]) -> Widths:
        """The first widths that meet the budget, with the largest width of the group that was changed last."""
        last = int(np.argmax(self._fits(np.stack(path))))
        if last == 0:
            return path[0]
        (column,) = np.flatnonzero(path[last] != path[last - 1])
        name = self.context.graph.groups[column].name
        allowed = self.supernet.space.choices[name]
        between = allowed[(allowed >= path[last][column]) & (allowed < path[last - 1][column])]
        rows = np.tile(path[last], (len(between), 1))
        rows[:, column] = between  # widest first
        widest: Widths = rows[int(np.argmax(self._fits(rows)))]
        return widest

    def _moves(self, row: Widths, grids: Mapping[str, Widths]) -> dict[str, Widths]:
        """The widths after one step of each group that can be narrower."""
        moves = {}
        for name, widths in grids.items():
            column = self.supernet.column(name)
            narrower = widths[widths < row[column]]
            if not len(narrower):
                narrower = self.supernet.space.choices[name][-1:]  # below the grid
            if narrower[-1] < row[column]:
                moved = row.copy()
                moved[column] = narrower[-1]
                moves[name] = moved
        return moves

    def _best(
        self,
        row: Widths,
        moves: Mapping[str, Widths],
        batches: Sequence[Batch],
        prefixes: Mapping[str, Prefix],
    ) -> Widths:
        sums = self._sums(row, moves, batches, prefixes).numpy()
        order = np.lexsort((sums[:, 1], sums[:, 0]))  # errors first, then cross entropy
        return list(moves.values())[int(order[0])]

    def _sums(
        self,
        row: Widths,
        moves: Mapping[str, Widths],
        batches: Sequence[Batch],
        prefixes: Mapping[str, Prefix],
    ) -> Tensor:
        """(moves, 2): errors and summed cross entropy of each candidate on all held-out images."""
        sums = torch.zeros(len(moves), 2, dtype=torch.float64)
        rank, ranks = world()

        def work() -> None:
            for batch in batches[rank::ranks]:
                sums.add_(self._judged(row, moves, batch, prefixes))

        on_all_ranks(work)
        sum_over_ranks(sums)
        return sums

    def _judged(
        self, row: Widths, moves: Mapping[str, Widths], batch: Batch, prefixes: Mapping[str, Prefix]
    ) -> Tensor:
        """(moves, 2): errors and summed cross entropy of each candidate on one batch."""
        images, targets = batch
        model, sliced = self.supernet.sliced.model, self.supernet.sliced
        everything = torch.arange(len(images), device=images.device)
        paths = {path for name in moves if name in prefixes for path in prefixes[name].read}
        found = []
        with batch_statistics(model):
            outputs: Mapping[str, Tensor] = {}
            if paths:
                with sliced.at(row.tolist()), record_outputs(model, sorted(paths)) as outputs:
                    model(images)
            for name, moved in moves.items():
                with ExitStack() as stack:
                    stack.enter_context(sliced.at(moved.tolist()))
                    if name in prefixes:
                        stack.enter_context(prefixes[name].skipped(model, outputs))(everything)
                    logits = model(images)
                errors = (logits.argmax(dim=1) != targets).sum()
                loss = functional.cross_entropy(logits.double(), targets, reduction="sum")
                found.append(torch.stack([errors.double(), loss]).cpu())
        return torch.stack(found)

    def _prefixes(self, images: Tensor) -> dict[str, Prefix]:
        """For each group the modules that finish before its first module; groups without such modules are left out."""
        model = self.supernet.sliced.model
        schedule = record_schedule(model, images, ())
        prefixes = {}
        for group in self.supernet.sliced.graph.groups:
            first = _first_module(group, schedule)
            if first is not None and (prefix := schedule.until(first)).read:
                prefixes[group.name] = prefix
        return prefixes


def _first_module(group: ChannelGroup, schedule: Schedule) -> int | None:
    """The start of the first module with channels of the group; None if one of these modules does not run exactly
    once."""
    tensors = [part.parameter for part in group.slices] + [gather.buffer for gather in group.gathers]
    owners = {name.rpartition(".")[0] for name in tensors}
    if not owners <= set(schedule.started):
        return None
    return min((schedule.started[owner] for owner in owners), default=None)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Context in which normalisation layers use batch statistics and do not change their running statistics."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and not module.training]
    for norm in norms:
        norm.train()
    try:
        with frozen_statistics(model):
            yield
    finally:
        for norm in norms:
            norm.eval()
