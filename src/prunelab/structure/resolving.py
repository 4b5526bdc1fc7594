"""Resolver: from kept channels and dropped blocks to a plan with every cut of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.blocks import ResidualBlock
from prunelab.structure.groups import ChannelGroup
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.proving.remedies import ComputedWidth, LinkedAttribute, Remedy
from prunelab.structure.surgery.rewriting import Width
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace


@dataclass(frozen=True)
class Resolver:
    """Turns kept channels and dropped blocks into cuts of tensors."""

    trace: Trace
    components: Components
    groups: tuple[ChannelGroup, ...]
    members: tuple[NDArray[np.int64], ...]
    blocks: tuple[ResidualBlock, ...]
    remedies: tuple[Remedy, ...]
    aliases: Mapping[str, tuple[str, ...]]
    grouped: frozenset[str]

    def __call__(
        self,
        kept: Mapping[str, tuple[int, ...]],
        dropped: tuple[str, ...] = (),
        members: Mapping[str, tuple[int, ...]] | None = None,
    ) -> PruningPlan:
        members = members or {}
        removed_ids = self._removed_ids(kept, members)
        of_members = {
            member.name: members.get(member.name, kept[group.name])
            for group in self.groups
            for member in group.members[1:]
        }
        inside = tuple(f"{name}." for name in dropped)
        cuts = []
        for origin in self.trace.ids.origins:
            mask = removed_ids[origin.start : origin.start + origin.size]
            names = self.aliases.get(origin.tensor, (origin.tensor,))
            # A tensor whose names are all in dropped blocks is removed with them.
            name = next((name for name in names if not name.startswith(inside)), None)
            if mask.any() and name is not None:
                cuts.append(Cut(name, origin.dim, origin.size, tuple(np.flatnonzero(~mask).tolist())))
        replaced = {block.name: block.leaves for block in self.blocks if block.name in dropped}
        return PruningPlan(
            kept=dict(kept),
            widths={group.name: (group.size, len(kept[group.name])) for group in self.groups},
            dropped_blocks=dropped,
            makers={group.name: tuple(found.parameter for found in group.producers) for group in self.groups},
            cuts=tuple(cuts),
            values=self._values(removed_ids, inside),
            attributes=self._attributes(removed_ids, inside),
            replaced={n: leaves for n, leaves in replaced.items() if not n.startswith(inside)},
            rewritten=self._rewritten(removed_ids, inside),
            members=of_members,
        )

    def for_trials(self, kept: Mapping[str, tuple[int, ...]]) -> Callable[[tuple[Remedy, ...]], PruningPlan]:
        """Plans that keep these channels, for any remedies; their cuts are computed once."""
        plan, removed = self(kept), self._removed_ids(kept)

        def with_remedies(remedies: tuple[Remedy, ...]) -> PruningPlan:
            resolver = replace(self, remedies=remedies)
            return replace(
                plan, attributes=resolver._attributes(removed, ()), rewritten=resolver._rewritten(removed, ())
            )

        return with_remedies

    def _removed_ids(
        self, kept: Mapping[str, tuple[int, ...]], members: Mapping[str, tuple[int, ...]] | None = None
    ) -> NDArray[np.bool_]:
        gone = np.zeros(self.components.count, dtype=np.bool_)
        for group, channels in zip(self.groups, self.members, strict=True):
            columns = channels.reshape(group.size, -1).T
            for member, column in zip(group.members or (group,), columns, strict=True):
                removed = np.ones(group.size, dtype=np.bool_)
                removed[list((members or {}).get(member.name, kept[group.name]))] = False
                gone[column[removed]] = True
        return gone[self.components.label]

    def _values(self, removed: NDArray[np.bool_], inside: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
        """New content of index buffers: kept sources are renumbered, removed ones become the zero channel."""
        values = {}
        born = {origin.tensor: origin for origin in self.trace.ids.origins}
        for gather in self.trace.gathers:
            alive = ~removed[gather.source]
            out = ~removed[born[gather.buffer].ids] if gather.buffer in born else np.ones(1, dtype=np.bool_)
            if (alive.all() and out.all()) or gather.buffer.startswith(inside):
                continue
            place = np.where(alive, np.cumsum(alive) - 1, alive.sum() - 1)
            values[gather.buffer] = tuple(place[gather.values[out]].tolist())
        return values

    def _attributes(self, removed: NDArray[np.bool_], inside: tuple[str, ...]) -> dict[str, dict[str, int]]:
        attributes: dict[str, dict[str, int]] = {}
        for (module, name), ids in self.trace.numbers.items():
            left = int((~removed[ids]).sum())
            if left != ids.size and not f"{module}.".startswith(inside) and module in self.grouped:
                attributes[module] = {name: left}
        for link in self.remedies:
            if not isinstance(link, LinkedAttribute):
                continue
            left = int((~removed[link.ids]).sum())
            if left != link.ids.size and not f"{link.module}.".startswith(inside):
                attributes.setdefault(link.module, {})[link.attribute] = left
        return attributes

    def _rewritten(self, removed: NDArray[np.bool_], inside: tuple[str, ...]) -> dict[str, tuple[Width, ...]]:
        rewritten: dict[str, set[Width]] = {}
        for remedy in self.remedies if removed.any() else ():
            if isinstance(remedy, ComputedWidth) and not f"{remedy.module}.".startswith(inside):
                rewritten.setdefault(remedy.module, set()).add(remedy.width)
        return {module: tuple(sorted(widths)) for module, widths in rewritten.items()}
