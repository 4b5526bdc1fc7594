"""Trials: which channels the trials of a proof remove from each group, so that widths do not agree by chance."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import ChannelGroup
from prunelab.structure.proving.prediction import is_view
from prunelab.structure.tracing.marks import Trace

FEW = 16
"""Groups of at most so many channels (heads) may well lose equally many as others in one trial."""


class Trials:
    """The trials at ``groups`` (number, group): each removes other channels. ``count`` is how many there are."""

    def __init__(self, trace: Trace, groups: Iterable[tuple[int, ChannelGroup]]) -> None:
        few = [number for number, group in groups if group.size <= FEW]
        self._few = {number: place for place, number in enumerate(few)}
        self.count = 1 + (self._at_few() if _may_agree_by_chance(trace) else 0)

    def _at_few(self) -> int:
        """How many further trials tell any two groups of few channels apart, which lose equally many in the first."""
        return max(1, (len(self._few) - 1).bit_length())

    def removed(self, trial: int, number: int, size: int) -> NDArray[np.int64]:
        """The channels that group ``number`` of ``size`` > 1 loses: 15 to 65 %, or, if they are few, as many or as few
        as can be, by one bit of the group's place for each trial after the first. Two stay (PyTorch has other
        operators for one), of two one."""
        if trial > 0 and number in self._few:
            many = self._few[number] >> (trial - 1) & 1
            return _spread(size, max(1, size - 2) if many else int(size > 3))
        fraction = 0.15 + 0.5 * ((number + 1) * 0.6180339887 * (trial + 1) % 1.0)
        return _spread(size, max(1, min(round(size * fraction), size - 2)))


def _may_agree_by_chance(trace: Trace) -> bool:
    """Whether a width may be computed from other widths and agree in one trial by chance (``C // heads``): where views
    to more than (N, C) or divisions carry channels."""
    return any(
        step.claims or "split" in step.op or (is_view(step) and len(step.outputs[0].shape) > 2)
        for step in trace.steps
        if any(marked.carries and marked.activation for marked in step.outputs)
    )


def _spread(size: int, count: int) -> NDArray[np.int64]:
    """``count`` of ``size`` channels, more from the front than from the back: a position written out, counted from the
    end or taken as half of the width then differs from where the ids say it is."""
    back = count // 3
    return np.concatenate([np.arange(count - back), np.arange(size - back, size)]).astype(np.int64)
