"""Scores of channels and blocks: the output of a criterion, the input of an allocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from prunelab.methods.allocation.ties import tied


@dataclass(frozen=True)
class Scores:
    """The importance of each channel and each block. Higher = keep.

    Args:
        channels: group name -> float array (size of the group,). A group without scores is not pruned.
        blocks: block name -> float. A block without a score is not dropped.
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

    def settled(self, group: str) -> np.ndarray:
        """The scores of a group, with those that differ by rounding made equal; float64 (size of the group,)."""
        raw = np.asarray(self.channels[group], dtype=np.float64)
        return raw if self.are_order else tied(raw)

    def removal_order(self, group: str) -> np.ndarray:
        """The channels of a group, least important first; of equal ones the first is removed last."""
        return np.argsort(-self.settled(group), kind="stable")[::-1]
