"""Candidate widths: the allowed widths of a group, and the priority of each step from one to the next smaller one.

A block has two widths, alive (1) and dropped (0), so that channels and blocks compete in one order.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from prunelab.errors import UserError, nearest
from prunelab.former_arguments import accepts_former
from prunelab.methods.allocation.scores import Scores
from prunelab.structure import LEVELS

if TYPE_CHECKING:
    from prunelab.structure import ChannelGraph, ChannelGroup

Rule = Literal["global", "knapsack", "per_cost", "uniform"]
Normalisation = Literal["mean", "max", "l2", "none"]

RULES: tuple[Rule, ...] = ("global", "knapsack", "per_cost", "uniform")
NORMALISATIONS: tuple[Normalisation, ...] = ("mean", "max", "l2", "none")


@dataclass(frozen=True)
class Allocation:
    """How a budget is distributed over the groups of a network.

    Args:
        rule: ``global`` = one threshold over the normalised scores of all groups; ``per_cost`` = one threshold over
            score / (resource saved by removing the channel or block); ``uniform`` = the same keep ratio everywhere;
            ``knapsack`` = of all widths those that lose the least sum of normalised scores.
        normalisation: what the scores of a group are divided by, except under ``uniform``: their ``mean`` (so that a
            group of many large weights is not more important than one of few small ones), their ``max``, their ``l2``
            norm, or 1 (``none``: scores are compared between groups unchanged). Blocks are normalised as one group.
        min_keep: smallest fraction of the channels of a group that is kept, in [0, 1]; at least one channel is kept.
        divisor: widths are multiples of it (8 suits most hardware). The full width of a group is always allowed, even
            if it is not a multiple.

    Example:
        >>> prunelab.Allocation("uniform", divisor=8).min_keep
        0.1
    """

    rule: Rule = "global"
    normalisation: Normalisation = "mean"
    min_keep: float = 0.1
    divisor: int = 1

    def __post_init__(self) -> None:
        _require_one_of("allocation", self.rule, RULES)
        _require_one_of("normalisation", self.normalisation, NORMALISATIONS)
        if not 0 <= self.min_keep <= 1:
            raise UserError(
                f"min_keep={self.min_keep} is not a fraction of a group's channels: use a number from 0 to 1."
            )
        if self.divisor != int(self.divisor) or self.divisor < 1:
            raise UserError(
                f"divisor={self.divisor} is not a width to round to: use 1 (no rounding), 8, 16, ..."
            )


Allocation.__init__ = accepts_former(floor="min_keep")(Allocation.__init__)  # type: ignore[method-assign]


@dataclass(frozen=True)
class CandidateWidths:
    """The widths of one group (or block), widest first.

    name: the group or block.
    column: its index in a width vector: the groups of the graph in order, then its blocks.
    widths: int array (steps + 1,), strictly falling.
    priorities: float array (steps,), never falling: a step of lower priority is taken earlier.
    removal_order: the channels, least important first; empty for a block.
    """

    name: str
    column: int
    widths: np.ndarray
    priorities: np.ndarray
    removal_order: np.ndarray

    def kept(self, width: int) -> tuple[int, ...]:
        """The channels that remain at a width, in ascending order."""
        return tuple(
            int(channel) for channel in np.sort(self.removal_order[len(self.removal_order) - width :])
        )


def check_levels(levels: Collection[str]) -> tuple[str, ...]:
    """The levels in the order of ``LEVELS``.

    Raises:
        UserError: there are none, or one does not exist.
    """
    if isinstance(levels, str):
        raise UserError(f"levels={levels!r} is a single word: write a list, such as levels=[{levels}].")
    if not levels:
        raise UserError(f"levels is empty: choose what may be removed from {', '.join(LEVELS)}.")
    for level in levels:
        _require_one_of("levels", level, LEVELS)
    return tuple(level for level in LEVELS if level in levels)


def allowed_widths(size: int, min_keep: float, divisor: int) -> np.ndarray:
    """The widths that a group of ``size`` channels may take, widest first: int array (at least 1,).

    The full width, then the multiples of ``divisor`` below it, down to ``min_keep`` of the full width (rounded
    up).
    """
    lowest = max(1, math.ceil(min_keep * size - 1e-9))  # 0.1 * 30 is slightly above 3 in floating point
    largest_multiple = (size - 1) // divisor * divisor
    multiples = np.arange(largest_multiple, lowest - 1, -divisor)
    return np.concatenate([[size], multiples[multiples > 0]]).astype(np.int64)


def build_candidate_widths(
    graph: ChannelGraph,
    scores: Scores,
    levels: Collection[str],
    allocation: Allocation,
    reference: ChannelGraph | None = None,
    saved: np.ndarray | None = None,
) -> list[CandidateWidths]:
    """The candidate widths of each group and block that may be pruned and has a score, in the order of the graph.

    ``min_keep`` is a fraction of the sizes in ``reference`` (the full network, if this one was pruned before). Under
    ``per_cost`` the priorities are divided by ``saved``: for each column, the cost of one channel (or of the block).
    """
    full_sizes = {group.name: group.size for group in (reference or graph).groups}
    options = [
        _widths_of_group(group, column, scores, full_sizes.get(group.name, group.size), allocation)
        for column, group in enumerate(graph.groups)
        if group.level in levels and group.name in scores.channels
    ]
    if "block" in levels:
        options += _widths_of_blocks(graph, scores, allocation)
    if saved is None or allocation.rule != "per_cost":
        return options
    return [replace(option, priorities=option.priorities / saved[option.column]) for option in options]


def normalised(scores: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Scores (n,) divided by the mean, maximum or l2 norm of their magnitudes; all zeros stay zeros."""
    magnitudes = np.abs(scores)
    scale = 1.0
    if not magnitudes.size:
        return scores
    if normalisation == "mean":
        scale = float(magnitudes.mean())
    elif normalisation == "max":
        scale = float(magnitudes.max())
    elif normalisation == "l2":
        scale = float(np.linalg.norm(scores))
    return scores / scale if scale > 0 else scores


def _widths_of_group(
    group: ChannelGroup, column: int, found: Scores, full_size: int, allocation: Allocation
) -> CandidateWidths:
    _checked(found.channels[group.name], group.size, group.name)
    scores, removal_order = found.settled(group.name), found.removal_order(group.name)
    lowest_fraction = min(1.0, allocation.min_keep * full_size / group.size)
    widths = allowed_widths(group.size, lowest_fraction, allocation.divisor)
    if allocation.rule == "uniform":
        priorities = 1 - widths[1:] / group.size
    else:
        last_removed = removal_order[group.size - widths[1:] - 1]
        priorities = normalised(scores, allocation.normalisation)[last_removed]
    return CandidateWidths(group.name, column, widths, priorities, removal_order)


def _widths_of_blocks(graph: ChannelGraph, scores: Scores, allocation: Allocation) -> list[CandidateWidths]:
    first_column = len(graph.groups)
    named = [
        (first_column + i, block.name) for i, block in enumerate(graph.blocks) if block.name in scores.blocks
    ]
    if not named:
        return []
    values = _checked(np.array([scores.blocks[name] for _, name in named]), len(named), "the blocks")
    if allocation.rule == "uniform":
        priorities = np.empty(len(values))
        priorities[np.argsort(values, kind="stable")] = np.arange(1, len(values) + 1) / len(values)
    else:
        priorities = normalised(values, allocation.normalisation)
    alive_then_dropped, no_channels = np.array([1, 0]), np.array([], dtype=np.int64)
    return [
        CandidateWidths(name, column, alive_then_dropped, priorities[i : i + 1], no_channels)
        for i, (column, name) in enumerate(named)
    ]


def _checked(scores: np.ndarray, size: int, name: str) -> np.ndarray:
    scores = np.asarray(scores, dtype=np.float64)
    if scores.shape != (size,):
        raise ValueError(f"the scores of {name} have shape {scores.shape}, expected ({size},)")
    if not np.isfinite(scores).all():
        raise UserError(
            f"The scores of {name} are not finite numbers. The weights or the activations of the network "
            "contain NaN or infinity: check that the baseline was trained and loaded properly."
        )
    return scores


def _require_one_of(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise UserError(f"{what}: {value!r} does not exist. {nearest(str(value), known)}")
