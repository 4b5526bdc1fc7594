"""Scores of channels and blocks: the output of a criterion, the input of an allocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prunelab.methods.allocation.ties import tied


@dataclass(frozen=True)
class Scores:
    """How much each channel and each block matters. Higher = keep.

    Args:
        channels: group name -> float array (size of the group,). A group without scores is not pruned.
        blocks: block name -> float. A block that is not named is left in place.
        are_order: the differences of scores only encode an order, however small they are. Otherwise scores of channels
            of a group that differ by rounding count as equal.

    Example:
        >>> scores = prunelab.Scores({"conv1": np.array([0.1, 0.7, 0.3])})
        >>> scores.channels["conv1"].argmin()
        np.int64(0)
    """

    channels: Mapping[str, np.ndarray]
    blocks: Mapping[str, float] = field(default_factory=dict)
    are_order: bool = False

    def settled(self, group: str) -> np.ndarray:
        """The scores of a group, where those that differ by rounding are equal; float64 (size of the group,)."""
        raw = np.asarray(self.channels[group], dtype=np.float64)
        return raw if self.are_order else tied(raw)

    def removal_order(self, group: str) -> np.ndarray:
        """The channels of a group, least important first; of equal ones the first stays longest."""
        return np.argsort(-self.settled(group), kind="stable")[::-1]
