"""Channel groups: channels that can be removed from a network, with all slices of tensors that belong to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.gathers import GroupGather
from prunelab.structure.hook_points import GroupHookPoint
from prunelab.structure.tracing.ids import Components, Ids
from prunelab.structure.tracing.marks import Trace

LEVELS = ("filter", "stage", "block")


@dataclass(frozen=True)
class Slice:
    """The part of one tensor dimension that belongs to a group.

    ``index`` has shape (channels of the group, m): row k contains the positions of channel k along ``dim``.
    ``role`` is one of producer, gate, depthwise, scale, shift, bias, statistic, consumer, other.
    """

    parameter: str
    dim: int
    role: str
    index: NDArray[np.int64] = field(repr=False)


@dataclass(frozen=True)
class ChannelGroup:
    """Channels of several tensors that can only be removed together.

    Attributes:
        name: a unique name, in most cases the module that produces the channels.
        level: "filter": one producer inside a block; "stage": several producers tied by shortcut additions (the
            survey's stage).
        size: number of channels.
        exact: False if the channels pass a normalisation or softmax over channels: the pruned network is then valid but
            not equal to the masked one.
        frozen: the reason why no channel can be removed (None: channels can be removed).
        inexact: the reason if ``exact`` is False, else None.
        slices: the dimensions of parameters and buffers that belong to the channels.
        hook_points: places of the network where the channels can be observed.
        gathers: index buffers that refer to the channels.
        members: groups that only have to lose equally many channels (``C = x.shape[1]; conv(x).reshape(B, C, -1)``).
            The first has the name of this group. Channel i of the group stands for channel i of every member, unless a
            plan names members (``ChannelGraph.plan``). Empty for an ordinary group.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> group = prunelab.analyze(network, torch.zeros(1, 3, 8, 8)).groups[0]
        >>> group.name, group.size, group.exact
        ('0', 8, True)
    """

    name: str
    level: str
    size: int
    exact: bool
    frozen: str | None
    inexact: str | None
    slices: tuple[Slice, ...] = field(repr=False)
    hook_points: tuple[GroupHookPoint, ...] = field(repr=False, default=())
    gathers: tuple[GroupGather, ...] = field(repr=False, default=())
    members: tuple[ChannelGroup, ...] = field(repr=False, default=())

    def having(self, *roles: str) -> tuple[Slice, ...]:
        """The slices with one of these roles, in forward order."""
        return tuple(found for found in self.slices if found.role in roles)

    @property
    def producers(self) -> tuple[Slice, ...]:
        """The weights with rows that produce the channels of the group."""
        return self.having("producer")

    @property
    def maker(self) -> str:
        """The first module that makes the channels of the group."""
        return _makers(self)[0].parameter.rpartition(".")[0] or "the network"


@dataclass(frozen=True)
class Partition:
    """Groups with their components (``members``); ``group_of`` maps each component to its group, or to -1.

    The components of a group are an array (channels,), or (channels, members) if it has members.

    ``wholes`` (groups,): groups of equal numbers differ only in the slices and splits that take them.
    """

    groups: tuple[ChannelGroup, ...]
    members: tuple[NDArray[np.int64], ...]
    group_of: NDArray[np.int64]
    wholes: NDArray[np.int64]

    def beside(self, number: int) -> set[int]:
        """The groups that are parts of the same channels as group ``number``, itself included."""
        return set(np.flatnonzero(self.wholes == self.wholes[number]).tolist())

    def without(self, numbers: Iterable[int]) -> Partition:
        """The other groups."""
        gone = set(numbers)
        left = [number for number in range(len(self.groups)) if number not in gone]
        group_of = np.full_like(self.group_of, -1)
        for number, old in enumerate(left):
            group_of[self.members[old]] = number
        groups, members = tuple(self.groups[old] for old in left), tuple(self.members[old] for old in left)
        return Partition(groups, members, group_of, self.wholes[left])

    def freezing(self, reasons: Mapping[int, str]) -> Partition:
        """The same groups, with those of these numbers frozen too."""
        groups = tuple(
            replace(group, frozen=reasons.get(number)) if group.frozen is None else group
            for number, group in enumerate(self.groups)
        )
        return replace(self, groups=groups)

    def marking_inexact(self, reasons: Mapping[int, str]) -> Partition:
        """The same groups, of which those with these numbers are inexact."""
        groups = tuple(
            replace(group, exact=False, inexact=reasons[number])
            if group.exact and number in reasons
            else group
            for number, group in enumerate(self.groups)
        )
        return replace(self, groups=groups)


def partition(trace: Trace, components: Components) -> Partition:
    """Divide the produced channels of a trace into groups.

    Two channels belong to the same group if and only if the same tensor dimensions carry them, equally often, the same
    slices and splits take them, and they are frozen or inexact for the same reason. The channels of a group are
    therefore interchangeable in size, the width of every tensor dimension is a sum of (multiplicity x width) over
    groups, and a part of a dimension that is read for itself (``x[:, :5]``) keeps at least one channel.
    """
    origins = trace.ids.origins
    dimension = np.full(trace.ids.count, -1, dtype=np.int64)
    for number, origin in enumerate(origins):
        dimension[origin.start : origin.start + origin.size] = number
    produced = np.flatnonzero(components.produced)
    first_id = _first_ids(components)
    produced = produced[np.argsort(first_id[produced], kind="stable")]
    born = np.flatnonzero(dimension >= 0)
    by_component = born[np.argsort(components.label[born], kind="stable")]
    bounds = np.searchsorted(components.label[by_component], np.arange(components.count + 1))
    summed = _summed(trace, components)
    gates = {int(number) for ids in trace.gates for number in np.unique(dimension[ids]) if number >= 0}
    groups, kept = [], []
    signatures = _signatures(dimension, components, trace.parts)
    for channels in _alike(signatures, produced):
        first = int(channels[0])
        count = bounds[first + 1] - bounds[first]  # equal signatures: every channel has as many ids
        if count == 0:
            continue
        slices = _slices(trace, dimension, by_component[bounds[channels][:, None] + np.arange(count)], gates)
        producers = [found for found in slices if found.role == "producer"]
        level = "stage" if len(producers) > 1 and summed[channels].any() else "filter"
        inexact = components.inexact.get(first)
        groups.append(
            ChannelGroup(
                name="",
                level=level,
                size=len(channels),
                exact=inexact is None,
                frozen=components.frozen.get(first),
                inexact=inexact,
                slices=tuple(slices),
            )
        )
        kept.append(channels)
    group_of = np.full(components.count, -1, dtype=np.int64)
    for number, channels_of in enumerate(kept):
        group_of[channels_of] = number
    without_parts = signatures[[channels_of[0] for channels_of in kept], :-1]
    wholes = np.unique(without_parts, axis=0, return_inverse=True)[1].ravel()
    return Partition(tuple(_named(groups)), tuple(kept), group_of, wholes)


def _signatures(
    dimension: Ids, components: Components, parts: Sequence[tuple[Ids, Ids]]
) -> NDArray[np.uint64]:
    """A key for each component (row): the dimensions that carry it, with multiplicity, the parts, and its reasons.

    The key consists of two 64-bit hashes of the dimensions, a count, a number for each reason, and a hash of the parts.
    """
    generator = np.random.default_rng(0)
    born = dimension >= 0
    columns = []
    for _ in range(2):
        salt = generator.integers(0, 2**63, size=int(dimension.max(initial=0)) + 1, dtype=np.uint64)
        total = np.zeros(components.count, dtype=np.uint64)
        np.add.at(total, components.label[born], salt[dimension[born]])
        columns.append(total)
    columns.append(np.bincount(components.label[born], minlength=components.count).astype(np.uint64))
    reasons: dict[str, int] = {}
    for reason_of in (components.frozen, components.inexact):
        column = np.zeros(components.count, dtype=np.uint64)
        column[list(reason_of)] = [reasons.setdefault(why, len(reasons) + 1) for why in reason_of.values()]
        columns.append(column)
    taken = np.zeros(components.count, dtype=np.uint64)
    for part, _ in parts:
        taken[np.unique(components.label[part])] += generator.integers(0, 2**63, dtype=np.uint64)
    return np.stack([*columns, taken], axis=1)


def _alike(signatures: NDArray[np.uint64], components: Ids) -> list[Ids]:
    """Divide ``components`` into runs of equal signature, in their order."""
    _, first, number = np.unique(signatures[components], axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first[number.ravel()], kind="stable")
    ends = np.flatnonzero(np.diff(first[number.ravel()][order])) + 1
    return np.split(components[order], ends) if components.size else []


def _first_ids(components: Components) -> Ids:
    """The smallest id of each component, which is the order of first appearance."""
    first = np.full(components.count, components.label.size, dtype=np.int64)
    np.minimum.at(first, components.label, np.arange(components.label.size))
    return first


def _summed(trace: Trace, components: Components) -> NDArray[np.bool_]:
    """The components that pass an addition of two activations."""
    summed = np.zeros(components.count, dtype=np.bool_)
    for first, _ in trace.sums:
        summed[components.label[first]] = True
    return summed


def _slices(trace: Trace, dimension: Ids, stacked: Ids, gates: set[int]) -> list[Slice]:
    """Every tensor dimension that carries the group's channels; row k of ``stacked`` are the ids of channel k."""
    numbers = dimension[stacked]
    order = np.argsort(numbers, axis=1, kind="stable")
    stacked, numbers = np.take_along_axis(stacked, order, 1), np.take_along_axis(numbers, order, 1)
    slices = []
    found, starts = np.unique(numbers[0], return_index=True)
    for number, start, end in zip(found, starts, [*starts[1:], numbers.shape[1]], strict=True):
        origin = trace.ids.origins[number]
        role = trace.roles.get((origin.tensor, origin.dim), "other")
        if role == "producer" and int(number) in gates:
            role = "gate"
        slices.append(Slice(origin.tensor, origin.dim, role, stacked[:, start:end] - origin.start))
    return slices


def _named(groups: list[ChannelGroup]) -> Iterable[ChannelGroup]:
    """Name each group after its producer, or after the longest path that half of its producers share ("layer1")."""
    taken: Counter[str] = Counter()
    for group in groups:
        makers = [found.parameter.rpartition(".")[0] or found.parameter for found in _makers(group)]
        name = _common(makers) if group.level == "stage" else makers[0]
        if not name or taken[name]:
            name = makers[0]
        taken[name] += 1
        if taken[name] > 1:
            name = f"{name}#{taken[name]}"
        yield ChannelGroup(**{**vars(group), "name": name})


def _makers(group: ChannelGroup) -> tuple[Slice, ...]:
    return group.producers or group.having("gate", "depthwise") or group.slices


def _common(paths: list[str]) -> str:
    """The longest path prefix that at least half of ``paths`` share."""
    counts = Counter(
        ".".join(path.split(".")[:depth]) for path in paths for depth in range(1, path.count(".") + 2)
    )
    shared = [prefix for prefix, count in counts.items() if 2 * count >= len(paths)]
    return max(shared, key=lambda prefix: (counts[prefix], prefix.count(".")), default="")
