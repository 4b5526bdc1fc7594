"""The removal of chosen channels: its plan, and the channel ids that it removes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import Partition
from prunelab.structure.plan import PruningPlan
from prunelab.structure.proving.remedies import Remedy
from prunelab.structure.tracing.ids import Components

PlanFor = Callable[[tuple[Remedy, ...]], PruningPlan]
Resolver = Callable[[Mapping[str, tuple[int, ...]]], PlanFor]


@dataclass(frozen=True)
class Removal:
    """The removal of a trial: True for each id that is removed, and its plan for given remedies."""

    ids: NDArray[np.bool_] = field(repr=False)
    plan: PlanFor


def removal(
    components: Components, parts: Partition, resolver: Resolver, chosen: Mapping[int, NDArray[np.int64]]
) -> Removal:
    """The removal of the ``chosen`` channels: number of a group -> channels."""
    kept: dict[str, tuple[int, ...]] = {}
    gone = np.zeros(components.count, dtype=np.bool_)
    for number, group in enumerate(parts.groups):
        if group.frozen is not None:
            continue
        removed = np.zeros(group.size, dtype=np.bool_)
        removed[chosen.get(number, [])] = True
        kept[group.name] = tuple(np.flatnonzero(~removed).tolist())
        gone[parts.members[number][removed]] = True
    return Removal(gone[components.label], resolver(kept))
