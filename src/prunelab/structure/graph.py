"""ChannelGraph: the structure of one network; ``analyze`` finds it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.errors import UserError, nearest
from prunelab.structure.blocks import ResidualBlock, describe, find_blocks
from prunelab.structure.cost import CostModel, cost_model
from prunelab.structure.cost_terms import Described
from prunelab.structure.gathers import find_gathers
from prunelab.structure.groups import ChannelGroup, Partition, partition
from prunelab.structure.hook_points import find_hook_points
from prunelab.structure.kept_channels import kept_indices
from prunelab.structure.layers import Layer
from prunelab.structure.network import Network
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.proving.proof import prove
from prunelab.structure.proving.remedies import ComputedWidth, LinkedAttribute, Remedy
from prunelab.structure.summary import html, short
from prunelab.structure.surgery.rewriting import Width
from prunelab.structure.tracing.collector import without_collector
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace
from prunelab.structure.wrappers import uncompiled


@dataclass(frozen=True, repr=False)
class ChannelGraph:
    """All groups and blocks of one network, and its cost model.

    ``groups`` can be pruned; ``frozen`` groups cannot (``ChannelGroup.frozen`` is the reason). Both are in the order of
    the forward pass. ``print(structure)`` prints one line; a notebook shows a table.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> plan = structure.plan(kept={"0": [0, 2, 5]})
        >>> structure.cost.flops(), structure.cost.flops(plan)
        (25120, 9460)
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[ChannelGroup, ...]
    blocks: tuple[ResidualBlock, ...]
    cost: CostModel
    _resolve: _Resolver = field(repr=False, compare=False)

    def __str__(self) -> str:
        return short(self)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return html(self)

    def group(self, name: str) -> ChannelGroup:
        """A prunable group by its name."""
        for group in self.groups:
            if group.name == name:
                return group
        raise UserError(
            f"this network has no prunable group {name!r}. {nearest(name, [g.name for g in self.groups])}"
        )

    def layers(self, group: str) -> tuple[Layer, ...]:
        """The layers that make the channels of a prunable group, with their kernels, shapes, widths and costs.

        A depthwise convolution makes the channels that it reads, so that it belongs to the same group.
        """
        name = self.group(group).name
        return tuple(layer for layer in self.cost.layers() if name in layer.makes)

    def at(self, levels: Collection[str]) -> tuple[ChannelGroup, ...]:
        """The prunable groups of these levels."""
        return tuple(group for group in self.groups if group.level in levels)

    def plan(
        self,
        kept: Mapping[str, Sequence[int] | Sequence[bool] | NDArray[Any] | Tensor] | None = None,
        dropped_blocks: Collection[str] = (),
    ) -> PruningPlan:
        """The plan that keeps these channels (all channels of groups not named) and drops these blocks.

        Args:
            kept: name of a group -> the channels to keep: their indices, or a mask of one boolean for each channel.
            dropped_blocks: names of residual blocks.

        Raises UserError for unknown names, indices out of range or repeated, a mask of another length, or nothing kept.

        Example::

            structure.plan(kept={"layer1": [0, 2, 5], "layer2": scores > 0.1}, dropped_blocks=["layer3.1"])
        """
        chosen = {group.name: tuple(range(group.size)) for group in self.groups}
        for name, channels in (kept or {}).items():
            group = self.group(name)
            chosen[name] = kept_indices(name, group.size, channels)
        names = [block.name for block in self.blocks]
        if isinstance(dropped_blocks, str):
            raise UserError(
                f"dropped_blocks={dropped_blocks!r} is one name; give a list: [{dropped_blocks!r}]"
            )
        for name in dropped_blocks:
            if name not in names:
                raise UserError(
                    f"this network has no residual block {name!r} to drop. {nearest(name, names)}"
                )
        dropped = tuple(name for name in names if name in set(dropped_blocks))
        return self._resolve(chosen, dropped)


@dataclass(frozen=True)
class _Resolver:
    """Turns kept channels and dropped blocks into cuts of tensors."""

    trace: Trace
    components: Components
    groups: tuple[ChannelGroup, ...]
    members: tuple[NDArray[np.int64], ...]
    blocks: tuple[ResidualBlock, ...]
    remedies: tuple[Remedy, ...]
    aliases: Mapping[str, tuple[str, ...]]
    grouped: frozenset[str]

    def __call__(self, kept: Mapping[str, tuple[int, ...]], dropped: tuple[str, ...] = ()) -> PruningPlan:
        removed_ids = self._removed_ids(kept)
        inside = tuple(f"{name}." for name in dropped)
        cuts = []
        for origin in self.trace.ids.origins:
            mask = removed_ids[origin.start : origin.start + origin.size]
            names = self.aliases.get(origin.tensor, (origin.tensor,))
            # A tensor without a name outside of dropped blocks is removed with them.
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
        )

    def for_trials(self, kept: Mapping[str, tuple[int, ...]]) -> Callable[[tuple[Remedy, ...]], PruningPlan]:
        """The plans that keep these channels, for any remedies; their cuts are computed once."""
        plan, removed = self(kept), self._removed_ids(kept)

        def with_remedies(remedies: tuple[Remedy, ...]) -> PruningPlan:
            resolver = replace(self, remedies=remedies)
            return replace(
                plan, attributes=resolver._attributes(removed, ()), rewritten=resolver._rewritten(removed, ())
            )

        return with_remedies

    def _removed_ids(self, kept: Mapping[str, tuple[int, ...]]) -> NDArray[np.bool_]:
        gone = np.zeros(self.components.count, dtype=np.bool_)
        for group, channels in zip(self.groups, self.members, strict=True):
            removed = np.ones(group.size, dtype=np.bool_)
            removed[list(kept[group.name])] = False
            gone[channels[removed]] = True
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


def analyze(
    model: nn.Module, example_input: Any, *, exact: bool = False, cardinality: bool = False
) -> ChannelGraph:
    """Find everything that can be removed from ``model``.

    The network is run a few times on the meta device (on its own device if it cannot run there), in evaluation mode.
    It is not changed. A network in ``torch.compile`` is analysed as it was written.

    Args:
        model: any network.
        example_input: the input of one forward call: a tensor (N, C, H, W), a tuple of positional or a dict of keyword
            arguments.
        exact: keep channels that pass a normalisation or softmax over channels (groups that are not
            ``ChannelGroup.exact``), so that every pruned network equals the masked one.
        cardinality: remove whole groups of a grouped convolution (and decrease ``groups``, its cardinality) instead of
            the same positions of every group. Where other layers tie all its groups, positions are removed as usual.

    Raises UserError if the network cannot run on the input, is in a wrapper such as DataParallel, or ``exact`` or
    ``cardinality`` is not a boolean.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> structure = prunelab.analyze(network, torch.zeros(1, 3, 8, 8))
        >>> [(group.name, group.size, group.level) for group in structure.groups]
        [('0', 8, 'filter')]
    """
    for name, value in (("exact", exact), ("cardinality", cardinality)):
        if not isinstance(value, bool):
            raise UserError(f"{name}={value} is neither true nor false.")
    with without_collector(), uncompiled(model) as plain:
        return _analyzed(Network(plain, example_input, exact, cardinality), exact)


def _analyzed(network: Network, exact: bool) -> ChannelGraph:
    trace = network.trace()
    components, parts, remedies = _proved(network, trace, exact)
    prunable = [number for number, group in enumerate(parts.groups) if group.frozen is None]
    members = [parts.members[number] for number in prunable]
    hook_points = find_hook_points(trace, components, members)
    gathers = find_gathers(trace, components, members)
    groups = tuple(
        replace(parts.groups[n], hook_points=hook_points[i], gathers=gathers[i])
        for i, n in enumerate(prunable)
    )
    group_of = np.full(components.count, -1, dtype=np.int64)
    for number, channels in enumerate(members):
        group_of[channels] = number
    names = [group.name for group in groups]
    tensors_of = [{found.parameter for found in group.slices} for group in groups]
    blocks = describe(trace, components, find_blocks(trace), group_of, names, tensors_of)
    cost = cost_model(
        trace,
        components,
        group_of,
        [group.size for group in groups],
        Described(
            names,
            [(block.name, block.parent) for block in blocks],
            network.parameter_shapes(),
            network.aliases(),
            network.kinds(),
            network.images,
        ),
    )
    frozen = tuple(group for group in parts.groups if group.frozen is not None)
    resolve = _Resolver(
        trace, components, groups, tuple(members), blocks, remedies, network.aliases(), network.grouped
    )
    return ChannelGraph(groups, frozen, blocks, cost, resolve)


def _frozen_if_inexact(group: ChannelGroup) -> ChannelGroup:
    if group.exact or group.frozen is not None:
        return group
    return replace(group, frozen=f"not exact: {group.inexact}")


def _proved(network: Network, trace: Trace, exact: bool) -> tuple[Components, Partition, tuple[Remedy, ...]]:
    """Freeze the groups that fail in a trial, and find the attributes and hard-coded widths to adapt for the others."""
    components = trace.ids.components()
    parts = partition(trace, components)
    if exact:
        parts = replace(parts, groups=tuple(_frozen_if_inexact(group) for group in parts.groups))

    chosen = [number for number, group in enumerate(parts.groups) if group.frozen is None]
    resolver = _Resolver(
        trace,
        components,
        tuple(parts.groups[n] for n in chosen),
        tuple(parts.members[n] for n in chosen),
        (),
        (),
        network.aliases(),
        network.grouped,
    )
    broken, remedies = prove(network, trace, components, parts, resolver.for_trials)
    if broken:
        groups = tuple(
            replace(group, frozen=broken.get(number, group.frozen))
            for number, group in enumerate(parts.groups)
        )
        parts = replace(parts, groups=groups)
    return components, parts, remedies
