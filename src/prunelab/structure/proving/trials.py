"""The channels that the trials of a proof remove from each group, chosen so that widths do not agree by chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.groups import ChannelGroup, Partition
from prunelab.structure.proving.prediction import is_view
from prunelab.structure.tracing.ids import Components
from prunelab.structure.tracing.marks import Trace

FEW = 16
"""Groups of at most this many channels (heads) may lose as many channels as another group in one trial."""

MOST_TURNS = 8
"""The most turns of the groups of one dimension; of more groups several lose channels in the same trial."""


class Trials:
    """The trials of ``groups`` (number, group), each of which removes other channels; ``count`` of them.

    ``turns``: groups on both sides of a position in a dimension, see ``turns``. In a trial of each turn only its groups
    lose channels, one each. A position that is computed from the width of the whole dimension (``n // 2``) is then
    wrong for one of the turns, because the width is the same in both and the position should not be. In another trial
    of each turn they lose as many channels as possible, because the other side may be frozen.
    """

    def __init__(
        self,
        trace: Trace,
        groups: Iterable[tuple[int, ChannelGroup]],
        turns: Mapping[int, int] | None = None,
    ) -> None:
        few = [number for number, group in groups if group.size <= FEW]
        self._few = {number: place for place, number in enumerate(few)}
        self._turns = turns or {}
        self._first_turn = 1 + (self._at_few() if _may_agree_by_chance(trace) else 0)
        self.count = self._first_turn + 2 * (1 + max(self._turns.values(), default=-1))

    def _at_few(self) -> int:
        """The number of further trials until any two groups of few channels have lost different numbers once."""
        return max(1, (len(self._few) - 1).bit_length())

    def removed(self, trial: int, number: int, size: int) -> NDArray[np.int64]:
        """The channels that are removed from group ``number`` of ``size`` > 1: 15 to 65 %.

        In each trial after the first, a group of few channels loses the largest or the smallest possible number, by one
        bit of its number per trial. Two channels are kept (PyTorch runs other operators for one), or one of two. The
        last trials are those of the turns.
        """
        if trial >= self._first_turn:
            turn, most = divmod(trial - self._first_turn, 2)
            if self._turns.get(number) != turn:
                return _spread(size, 0)
            return _spread(size, max(1, size - 2 if size > 3 else size - 1) if most else 1)
        if trial > 0 and number in self._few:
            many = self._few[number] >> (trial - 1) & 1
            return _spread(size, max(1, size - 2) if many else int(size > 3))
        fraction = 0.15 + 0.5 * ((number + 1) * 0.6180339887 * (trial + 1) % 1.0)
        return _spread(size, max(1, min(round(size * fraction), size - 2)))


def turns(trace: Trace, components: Components, parts: Partition) -> dict[int, int]:
    """The groups of the dimensions of which a slice or split takes a part, with numbers (at most ``MOST_TURNS``) that
    differ within a dimension.

    Without dimensions of which each group is in all parts alike (``chunk``).
    """
    found: dict[int, int] = {}
    for taken, whole in trace.parts:
        inside, around = (_counts(ids, components, parts) for ids in (taken, whole))
        present = np.flatnonzero(around)
        if len(present) < 2 or np.ptp(inside[present] / around[present]) == 0:
            continue
        used = {found[number] for number in present.tolist() if number in found}
        free = (turn for turn in range(len(present) + len(used)) if turn not in used)
        for number in present.tolist():
            if parts.groups[number].frozen is None and number not in found:
                found[number] = next(free) % MOST_TURNS
    return found


def _counts(ids: NDArray[np.int64], components: Components, parts: Partition) -> NDArray[np.int64]:
    """How many of ``ids`` belong to each group: (groups,)."""
    numbers = parts.group_of[components.label[ids]]
    return np.bincount(numbers[numbers >= 0], minlength=len(parts.groups))


def _may_agree_by_chance(trace: Trace) -> bool:
    """Whether a width may be computed from other widths and agree in one trial by chance (``C // heads``): whether
    channels pass views to more than (N, C), or divisions."""
    return any(
        step.claims or "split" in step.op or (is_view(step) and len(step.outputs[0].shape) > 2)
        for step in trace.steps
        if any(marked.carries and marked.activation for marked in step.outputs)
    )


def _spread(size: int, count: int) -> NDArray[np.int64]:
    """``count`` of ``size`` channels, more from the front than from the back, so that a constant position, a position
    counted from the end and half of the width all differ from the predicted position."""
    back = count // 3
    return np.concatenate([np.arange(count - back), np.arange(size - back, size)]).astype(np.int64)
