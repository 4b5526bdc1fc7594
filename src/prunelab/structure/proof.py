"""Proof by trial: the pruned network is traced, and every operator must do what the channel ids foretell.

Constants hide in programs: a view to a written-out shape, ``x[:, :32]``, ``reshape(..., self.num_heads, ...)``. A
trial that removes a part of every group shows them: the traced operators must be the same, every output must have the
predicted shape and every constant that stands for channels the predicted value. A group that breaks this is frozen,
alone, unless the constant is an attribute of the module that can be set to the new width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import Partition
from prunelab.structure.ids import Components, Ids
from prunelab.structure.plan import PruningPlan
from prunelab.structure.trace import Step, Trace

if TYPE_CHECKING:
    from prunelab.structure.network import Network


@dataclass(frozen=True)
class Link:
    """An integer attribute of a module that must equal the number of kept ``ids``."""

    module: str
    attribute: str
    ids: Ids = field(repr=False)

    @property
    def key(self) -> tuple[str, str]:
        """Which attribute this is."""
        return (self.module, self.attribute)


@dataclass(frozen=True)
class _Failure:
    """The first traced operator that did not do what was foretold."""

    step: int
    reason: str


Resolver = Callable[[tuple[Link, ...]], Callable[[dict[str, tuple[int, ...]], tuple[str, ...]], PruningPlan]]


class _Trials:
    """Prunes a part of chosen groups on trial."""

    def __init__(
        self, network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
    ) -> None:
        self.network, self.trace, self.components, self.parts = network, trace, components, parts
        self.resolver = resolver

    def __call__(self, chosen: Iterable[int], links: tuple[Link, ...]) -> _Failure | None:
        """Remove every third channel of the chosen groups; None if the network does what was foretold."""
        wanted = set(chosen)
        kept: dict[str, tuple[int, ...]] = {}
        gone = np.zeros(self.components.count, dtype=np.bool_)
        for number, group in enumerate(self.parts.groups):
            if group.frozen is not None:
                continue
            removed = np.zeros(group.size, dtype=np.bool_)
            if number in wanted:
                removed[1::3] = True
            kept[group.name] = tuple(np.flatnonzero(~removed).tolist())
            gone[self.parts.members[number][removed]] = True
        plan = self.resolver(links)(kept, ())
        pruned, error = self.network.trace_pruned(plan)
        return _compare(self.trace, pruned, gone[self.components.label], error)


def prove(
    network: Network, trace: Trace, components: Components, parts: Partition, resolver: Resolver
) -> tuple[dict[int, str], tuple[Link, ...]]:
    """The groups that break the network (number -> reason), and the attributes that follow a width."""
    trials = _Trials(network, trace, components, parts, resolver)
    chosen = {number for number, group in enumerate(parts.groups) if group.frozen is None and group.size > 1}
    broken = {
        number: "a single channel" for number, group in enumerate(parts.groups) if group.frozen is None and group.size == 1
    }
    links: tuple[Link, ...] = ()
    while chosen and (failure := trials(chosen, links)) is not None:
        step = trace.steps[min(failure.step, len(trace.steps) - 1)]
        repaired = _repair(network, step, trials, chosen, links, failure, components, parts)
        if repaired is not None:
            links = repaired
            continue
        for number in _culprits(trials, step, chosen, links, components, parts):
            chosen.discard(number)
            broken[number] = failure.reason
    return broken, links


def _compare(full: Trace, pruned: Trace, removed: NDArray[np.bool_], error: str | None) -> _Failure | None:
    for number, (before, after) in enumerate(zip(full.steps, pruned.steps, strict=False)):
        if before.op != after.op or len(before.outputs) != len(after.outputs):
            return _Failure(number, f"{before.op} becomes {after.op}")
        for expected, found in zip(before.outputs, after.outputs, strict=True):
            shape = tuple(
                size if ids is None else int(ids.size - removed[ids].sum())
                for size, ids in zip(expected.shape, expected.dims, strict=True)
            )
            if shape != found.shape:
                return _Failure(number, f"{before.op} to a constant shape")
        values = [int(claim.counted.size - removed[claim.counted].sum()) for claim in before.claims]
        if values != [claim.value for claim in after.claims][: len(values)] and not _claims_hold(before, after, values):
            return _Failure(number, f"{before.op} at a constant position")
    if error is not None:
        number = len(pruned.steps)
        op = full.steps[number].op if number < len(full.steps) else "the network"
        return _Failure(number, f"{op} with a constant size ({error})" if len(error) < 60 else f"{op} with a constant size")
    if len(full.steps) != len(pruned.steps):
        return _Failure(len(pruned.steps), "a different number of operators")
    return None


def _claims_hold(before: Step, after: Step, values: list[int]) -> bool:
    """Claims whose channels are all gone or untracked in the pruned run cannot be compared; the rest must be equal."""
    return len(after.claims) == 0 and all(value <= 1 for value in values)


def _touched(step: Step, components: Components, parts: Partition) -> set[int]:
    """The groups whose channels an operator handles."""
    arrays = [ids for marked in (*step.inputs, *step.outputs) for ids in marked.dims if ids is not None]
    found: set[int] = set()
    for ids in arrays:
        found.update(np.unique(parts.group_of[components.label[ids]]).tolist())
    return found


def _culprits(
    trials: _Trials,
    step: Step,
    chosen: set[int],
    links: tuple[Link, ...],
    components: Components,
    parts: Partition,
) -> set[int]:
    """The groups to freeze: those at the failing operator that fail alone, else whichever half fails."""
    near = _touched(step, components, parts) & chosen
    alone = {number for number in near if trials({number}, links) is not None}
    if alone:
        return alone
    if near and trials(chosen - near, links) is None:
        return near
    suspects = sorted(chosen)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        if trials(half, links) is not None:
            suspects = half
        elif trials(suspects[len(half) :], links) is not None:
            suspects = suspects[len(half) :]
        else:  # only both halves together fail
            return set(suspects[len(half) :])
    return set(suspects)


def _repair(
    network: Network,
    step: Step,
    trials: _Trials,
    chosen: set[int],
    links: tuple[Link, ...],
    failure: _Failure,
    components: Components,
    parts: Partition,
) -> tuple[Link, ...] | None:
    """Attributes of the module at the failing operator that, set to the new width, let the trial go further."""
    known = {link.key for link in links}
    module = network.model.get_submodule(step.module)
    widths: dict[int, Ids] = {}
    for marked in (*step.outputs, *step.inputs):
        for ids in marked.dims:
            if ids is not None and chosen & set(np.unique(parts.group_of[components.label[ids]]).tolist()):
                widths.setdefault(ids.size, ids)
    for name, value in vars(module).items():
        if type(value) is int and value in widths and (step.module, name) not in known:
            tried = (*links, Link(step.module, name, widths[value]))
            again = trials(chosen, tried)
            if again is None or again.step > failure.step:
                return tried
    return None
