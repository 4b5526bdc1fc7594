"""Scores of groups whose members only have to lose equally many channels: each member has its own order of channels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from prunelab.methods.allocation.scores import Scores, best_first
from prunelab.methods.importance.criterion import Criterion, joined

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext


def score_members(criterion: Criterion, context: PruningContext) -> Scores:
    """``criterion.score``, with the members of each group (``ChannelGroup.members``) scored apart.

    A group keeps the k best channels of each member. Its k-th best channel therefore stands for the k-th best ones of
    all members, and has their scores, combined by the ``reduction`` of the criterion. A group with a member that the
    criterion cannot score is scored as one: it loses the same positions of all members.
    """
    divided = [group for group in context.groups if group.members]
    if not divided:
        return criterion.score(context)
    excluded = {
        member.name
        for group in context.graph.groups
        for member in group.members
        if group.name in context.exclude
    }
    separate = replace(context, graph=context.graph.separated(), exclude=context.exclude | excluded)
    found = criterion.score(separate)
    names = {member.name for group in divided for member in group.members}
    channels = {name: scores for name, scores in found.channels.items() if name not in names}
    members: dict[str, np.ndarray] = {}
    for group in divided:
        own = {each.name: found.channels[each.name] for each in group.members if each.name in found.channels}
        if len(own) < len(group.members):
            if own:
                channels[group.name] = joined(list(own.values()), criterion.reduction)
            continue
        members |= own
        ranked = joined([np.sort(scores) for scores in own.values()], criterion.reduction)
        channels[group.name] = np.empty_like(ranked)
        channels[group.name][best_first(np.asarray(own[group.name]))[::-1]] = ranked
    return replace(found, channels=channels, members=members)
