"""Scores of channels and blocks: the output of a criterion, the input of an allocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scores:
    """How much each channel and each block matters. Higher = keep.

    Args:
        channels: group name -> float array (size of the group,). A group without scores is not pruned.
        blocks: block name -> float. A block that is not named is left in place.

    Example:
        >>> scores = prunelab.Scores({"conv1": np.array([0.1, 0.7, 0.3])})
        >>> scores.channels["conv1"].argmin()
        np.int64(0)
    """

    channels: Mapping[str, np.ndarray]
    blocks: Mapping[str, float] = field(default_factory=dict)
