"""The entries of tensors that belong to the first channels of each group; no tensor is changed.

The cuts equal those of a plan that keeps the first channels. They are computed from tables that are made once,
because a search changes the widths at every step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.structure.proving.remedies import ComputedWidth, LinkedAttribute
from prunelab.structure.surgery.apply import owner
from prunelab.structure.surgery.rewriting import Width

if TYPE_CHECKING:
    from prunelab.structure.graph import ChannelGraph
    from prunelab.structure.tracing.ids import Ids


class Part(NamedTuple):
    """The entries that are kept along ``dim``: the first ``length`` ones, or those at ``positions``."""

    dim: int
    length: int
    positions: Tensor | None


@dataclass(frozen=True)
class Prefix:
    """The first channels of each group, resolved to tensors as in a ``PruningPlan``.

    ``homes`` are the paths of the modules whose parameters or buffers are cut.
    """

    cuts: Mapping[str, tuple[Part, ...]]
    values: Mapping[str, Tensor]
    attributes: Mapping[str, Mapping[str, int]]
    rewritten: Mapping[str, tuple[Width, ...]]
    homes: tuple[str, ...] = field(repr=False)


class _Pattern:
    """The channel of each id of an array; equal patterns are stored once."""

    def __init__(self, group: Ids, rank: Ids) -> None:
        self.group, self.rank = group, rank

    def kept(self, widths: NDArray[np.int64]) -> NDArray[np.bool_]:
        """True for each id that is kept. The last entry of ``widths`` is unlimited, for ids that belong to no group."""
        kept: NDArray[np.bool_] = self.rank < widths[self.group]
        return kept


class Prefixes:
    """The tables of one network; ``order`` as for ``SlicedNetwork``."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, order: Mapping[str, Sequence[int]]) -> None:
        found = graph._resolve
        trace, label = found.trace, found.components.label
        group_of = np.full(found.components.count, len(graph.groups), dtype=np.int64)
        rank = np.zeros(found.components.count, dtype=np.int64)
        of_members = {member.name for group in graph.groups for member in group.members}
        for name in order.keys() - of_members:
            graph.group(name)
        for number, (group, channels) in enumerate(zip(graph.groups, found.members, strict=True)):
            group_of[channels] = number
            members = group.members or (group,)
            for member, column in zip(members, channels.reshape(group.size, -1).T, strict=True):
                given = order.get(member.name, order.get(group.name))
                rank[column] = _ranks(member.name, group.size, given)
        self._group_of, self._rank, self._label = group_of, rank, label
        self._groups = len(graph.groups)
        self._patterns: dict[bytes, _Pattern] = {}
        dimensions: dict[str, list[tuple[int, _Pattern]]] = {}
        born: dict[str, _Pattern] = {}
        for origin in trace.ids.origins:
            pattern = self._pattern(origin.ids)
            if (pattern.group < self._groups).any():
                dimensions.setdefault(origin.tensor, []).append((origin.dim, pattern))
                born[origin.tensor] = pattern
        self._dimensions = {name: tuple(dims) for name, dims in dimensions.items()}
        self._gathers = [
            (gather.buffer, self._pattern(gather.source), born.get(gather.buffer), gather.values)
            for gather in trace.gathers
        ]
        numbers = {key: ids for key, ids in trace.numbers.items() if key[0] in found.grouped}
        links = {(r.module, r.attribute): r.ids for r in found.remedies if isinstance(r, LinkedAttribute)}
        self._numbers = [(key, self._pattern(ids)) for key, ids in {**numbers, **links}.items()]
        written: dict[str, set[Width]] = {}
        for remedy in found.remedies:
            if isinstance(remedy, ComputedWidth):
                written.setdefault(remedy.module, set()).add(remedy.width)
        self._rewritten = {module: tuple(sorted(widths)) for module, widths in written.items()}
        self._homes = {
            name: tuple(
                path
                for alias in found.aliases.get(name, (name,))
                for path in dict.fromkeys((alias.rpartition(".")[0], owner(alias)))
            )
            for name in self._dimensions
        }

    def _pattern(self, ids: Ids) -> _Pattern:
        channels = self._label[ids]
        pattern = _Pattern(self._group_of[channels], self._rank[channels])
        return self._patterns.setdefault(pattern.group.tobytes() + pattern.rank.tobytes(), pattern)

    def at(self, widths: Sequence[int], device: torch.device) -> Prefix:
        """The entries that are kept at these widths, one width for each group; positions are on ``device``."""
        limits = np.append(np.asarray(widths, dtype=np.int64), np.iinfo(np.int64).max)
        kept = {id(pattern): pattern.kept(limits) for pattern in self._patterns.values()}
        parts = {number: _part(found, device) for number, found in kept.items() if not found.all()}
        cuts = {}
        for name, dimensions in self._dimensions.items():
            own = tuple(Part(dim, *parts[id(pattern)]) for dim, pattern in dimensions if id(pattern) in parts)
            if own:
                cuts[name] = own
        attributes: dict[str, dict[str, int]] = {}
        for (module, name), pattern in self._numbers:
            if id(pattern) in parts:
                attributes.setdefault(module, {})[name] = int(kept[id(pattern)].sum())
        return Prefix(
            cuts=cuts,
            values=self._values(kept, device),
            attributes=attributes,
            rewritten=self._rewritten if parts else {},
            homes=tuple(dict.fromkeys(home for name in cuts for home in self._homes[name])),
        )

    def _values(self, kept: Mapping[int, NDArray[np.bool_]], device: torch.device) -> dict[str, Tensor]:
        """New values of index buffers: kept sources are renumbered, and removed ones refer to the zero channel."""
        values = {}
        for buffer, source, out, content in self._gathers:
            alive = kept[id(source)]
            rows = kept[id(out)] if out is not None else np.ones(len(content), dtype=np.bool_)
            if not (alive.all() and rows.all()):
                place = np.where(alive, np.cumsum(alive) - 1, alive.sum() - 1)
                values[buffer] = torch.from_numpy(place[content[rows]]).to(device)
        return values


def _ranks(name: str, size: int, order: Sequence[int] | None) -> NDArray[np.int64]:
    """The position of each channel in the order in which channels are kept."""
    if order is None:
        return np.arange(size, dtype=np.int64)
    given = np.asarray(order)
    if sorted(given.tolist()) != list(range(size)):
        raise UserError(f"the order of group {name} must name each of its channels 0 to {size - 1} once")
    ranks = np.empty(size, dtype=np.int64)
    ranks[given] = np.arange(size)
    return ranks


def _part(kept: NDArray[np.bool_], device: torch.device) -> tuple[int, Tensor | None]:
    places = np.flatnonzero(kept)
    if places[-1] == places.size - 1:
        return int(places.size), None
    return int(places.size), torch.from_numpy(places).to(device)
