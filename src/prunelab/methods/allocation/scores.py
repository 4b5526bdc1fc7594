"""Scores of channels and blocks: the output of a criterion, the input of an allocation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from prunelab.methods.allocation.ties import tied

if TYPE_CHECKING:
    from prunelab.structure import ChannelGroup


@dataclass(frozen=True)
class Scores:
    """The importance of each channel and each block. Higher = keep.

    Args:
        channels: group name -> float array (size of the group,). A group without scores is not pruned.
        blocks: block name -> float. A block without a score is not dropped.
        members: name of a member of a group (``ChannelGroup.members``) -> its own scores. A group whose members are all
            here loses the least important channels of each, not the same positions.
        are_order: the scores only encode an order, so that even the smallest differences count. Otherwise scores of
            channels of a group that differ by rounding count as equal.

    Example:
        >>> scores = prunelab.Scores({"conv1": np.array([0.1, 0.7, 0.3])})
        >>> scores.channels["conv1"].argmin()
        np.int64(0)
    """

    channels: Mapping[str, np.ndarray]
    blocks: Mapping[str, float] = field(default_factory=dict)
    are_order: bool = False
    members: Mapping[str, np.ndarray] = field(default_factory=dict)

    def settled(self, group: str) -> np.ndarray:
        """The scores of a group, with those that differ by rounding made equal; float64 (size of the group,)."""
        return self._settled(self.channels[group])

    def removal_order(self, group: str) -> np.ndarray:
        """The channels of a group, least important first; of equal ones the first is removed last."""
        return best_first(self.settled(group))[::-1]

    def of_members(self, group: ChannelGroup, width: int) -> dict[str, Sequence[int]]:
        """The ``width`` best channels of each member of a group with members, ascending; {} without their scores."""
        if not group.members or any(member.name not in self.members for member in group.members):
            return {}
        orders = {
            member.name: best_first(self._settled(self.members[member.name])) for member in group.members
        }
        return {name: np.sort(order[:width]).tolist() for name, order in orders.items()}

    def _settled(self, scores: np.ndarray) -> np.ndarray:
        raw = np.asarray(scores, dtype=np.float64)
        return raw if self.are_order else tied(raw)


def best_first(scores: np.ndarray) -> np.ndarray:
    """The channels of scores (n,), the most important first; of equal ones the first comes first."""
    return np.argsort(-scores, kind="stable")
