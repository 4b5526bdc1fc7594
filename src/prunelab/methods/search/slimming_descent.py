"""Greedy slimming: starting from the widest network of a supernet, channels of one group are removed in each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prunelab.distributed.messages import info
from prunelab.methods.context import PruningContext
from prunelab.methods.importance.prefix import Prefix, Schedule, record_schedule
from prunelab.methods.search.judge import held_out_batches
from prunelab.methods.search.markov import grid
from prunelab.methods.search.racing import Race
from prunelab.methods.search.state import SearchState
from prunelab.methods.search.supernet import Supernet
from prunelab.methods.search.widths import Widths
from prunelab.methods.untouched import untouched
from prunelab.structure import ChannelGroup


@dataclass(frozen=True)
class Descent:
    """From full widths, the group whose next narrower width costs the least accuracy takes it, until the budget is met.

    Of equal accuracies the one with the smaller cross entropy is chosen. The path of the descent does not depend on the
    budget, so that one descent serves several: with a state in ``context.folder`` a smaller budget continues where a
    larger one ended. The result is the first network of the path that meets the budget; the group that was changed last
    keeps as many channels as the budget allows. Networks are compared by their error, not by error per removed FLOP.

    Running statistics of each candidate are measured on some of the held-out images before it is evaluated: as in the
    paper, statistics after training. A candidate runs over further images only while it can still be the best one, and
    reuses outputs of the current network (``Race``); the decisions are those of running every candidate over all images
    from its first layer.

    context: budget, held-out images, and the folder of the state, which is written after each decision.
    supernet: the trained weights for all widths.
    steps: number of widths of each group.
    reuse: whether candidates reuse outputs of the current network.
    race: whether candidates that cannot be the best are left out; False: evaluate all on all images.

    Every candidate of a step is evaluated on some images. Errors of an earlier step are no lower bounds: with lazy
    evaluation, which takes them as such, many decisions differ (experiments/benchmarks/search.py).
    """

    context: PruningContext
    supernet: Supernet
    steps: int
    reuse: bool = True
    race: bool = True

    def __call__(self) -> Widths:
        """The widths of all groups, int (groups,).

        Raises:
            UserError: there are no held-out images, or their targets are not classes.
        """
        state = SearchState(self.context.folder, self.context.write)
        found = state.load() or {}
        path = [np.array(row) for row in found.get("path", [self.supernet.full])]
        batches = held_out_batches(self.context)
        grids = {name: grid(allowed, self.steps) for name, allowed in self.supernet.space.choices.items()}
        with untouched(self.context.model, self.context.device, self.context.seed), torch.no_grad():
            prefixes = self._prefixes(batches[0][0]) if self.reuse else {}
            race = Race(self.supernet, batches, prefixes, self.race, found.get("order"))
            while not self._fits(np.stack(path)).any():
                path.append(self._best(path[-1], grids, race))
                state.save({"path": [row.tolist() for row in path], "order": race.order})
        row = self._result(path)
        kept = self.supernet.space.costs(row[None])[0] / self.supernet.space.scale
        share = f" Candidates ran over {race.evaluated:.0%} of the held-out images." if race.evaluated else ""
        info(f"Greedy slimming ended at {kept:.1%} of the cost.{share}")
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

    def _best(self, row: Widths, grids: Mapping[str, Widths], race: Race) -> Widths:
        moves = self._moves(row, grids)
        return moves[race.best(row, moves)]

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
