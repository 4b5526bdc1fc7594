"""Groups that must lose equally many channels, but not the same positions: one width, the channels of each its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from prunelab.structure.groups import ChannelGroup, Partition
from prunelab.structure.tracing.ids import Components, Ids

Pair = tuple[Ids, Ids]
"""Channels of two dimensions, of which equally many must be removed."""


def joined(
    parts: Partition, components: Components, pairs: Sequence[Pair]
) -> tuple[Partition, tuple[Pair, ...]]:
    """The groups of each pair joined to one with members, and the pairs that do not consist of whole groups.

    A dimension with channels of several groups would need a condition on the sum of their widths: such channels have to
    be tied to those of the other dimension.
    """
    sets: list[set[int]] = []
    unfit = []
    for pair in pairs:
        found = [_whole_group(parts, components, ids) for ids in pair]
        if None in found:
            unfit.append(pair)
            continue
        new = {number for number in found if number is not None}
        touching = [each for each in sets if each & new]
        sets = [each for each in sets if not each & new] + [new.union(*touching)]
    groups, members = list(parts.groups), list(parts.members)
    gone: set[int] = set()
    for each in sets:
        first, *others = sorted(each)
        if others:
            groups[first] = _joint([parts.groups[number] for number in (first, *others)])
            members[first] = np.column_stack([parts.members[number] for number in (first, *others)])
            gone.update(others)
    return replace(parts, groups=tuple(groups), members=tuple(members)).without(gone), tuple(unfit)


def separated(parts: Partition) -> Partition:
    """The members of each group as groups of their own."""
    groups: list[ChannelGroup] = []
    members, wholes = [], []
    group_of = np.full_like(parts.group_of, -1)
    for group, channels, whole in zip(parts.groups, parts.members, parts.wholes, strict=True):
        for part, column in zip(group.members or (group,), channels.reshape(group.size, -1).T, strict=True):
            group_of[column] = len(groups)
            groups.append(replace(part, level=group.level, frozen=group.frozen))
            members.append(column)
            wholes.append(whole)
    return Partition(tuple(groups), tuple(members), group_of, np.array(wholes, dtype=np.int64))


def _whole_group(parts: Partition, components: Components, ids: Ids) -> int | None:
    """The number of the group whose channels ``ids`` are, each once and in order; None if there is none."""
    channels = components.label[ids]
    number = int(parts.group_of[channels[0]])
    return number if number >= 0 and np.array_equal(parts.members[number], channels) else None


def _joint(groups: Sequence[ChannelGroup]) -> ChannelGroup:
    return replace(
        groups[0],
        level="stage" if any(group.level == "stage" for group in groups) else groups[0].level,
        exact=all(group.exact for group in groups),
        frozen=_first(group.frozen for group in groups),
        inexact=_first(group.inexact for group in groups),
        slices=tuple(found for group in groups for found in group.slices),
        members=tuple(groups),
    )


def _first(reasons: Iterable[str | None]) -> str | None:
    return next((reason for reason in reasons if reason is not None), None)
