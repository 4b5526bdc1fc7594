"""Criterion: scores every channel and block of a network; higher = keep."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np

from prunelab.distributed.messages import warn
from prunelab.errors import UserError, nearest
from prunelab.methods.about import About, Origin
from prunelab.methods.allocation.candidate_widths import Normalisation, Rule
from prunelab.methods.allocation.scores import Scores
from prunelab.structure import LEVELS

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

Reads = Literal["nothing", "weights", "activations", "activations and gradients"]
Reduction = Literal["mean", "sum", "max"]

COSTS: dict[Reads, str] = {
    "nothing": "no data",
    "weights": "no data",
    "activations": "one forward pass",
    "activations and gradients": "one forward and backward pass",
}


@dataclass(frozen=True)
class Criterion(ABC):
    """The importance of each channel. A new criterion is one subclass (a frozen dataclass of its settings) in one
    file.

    A group of level ``stage`` has several members: the producers that are tied by shortcut additions, or the
    places where their sum is read. Each member has its own scores, which ``reduction`` combines.

    Args:
        reduction: how the scores of a stage's members are combined: "mean", "sum" or "max".

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class LastFirst(prunelab.Criterion):
        ...     reads = "nothing"
        ...     def score(self, context):
        ...         return prunelab.Scores({group.name: np.arange(group.size) for group in context.groups})
        >>> prunelab.ImportanceMethod(LastFirst(), prunelab.Budget(flops=0.5)).title
        'LastFirst'
    """

    reads: ClassVar[Reads]
    """The data that the criterion reads."""

    origin: ClassVar[Origin] = Origin()
    """The paper and the code that define the criterion."""

    covers: ClassVar[tuple[str, ...]] = LEVELS
    """The levels for which the criterion is defined."""

    normalisation: ClassVar[Normalisation] = "mean"
    """How ``global`` allocation makes layers comparable, unless the user chooses otherwise (see
    ``Allocation``)."""

    allocation: ClassVar[Rule] = "global"
    """How the budget is distributed, unless the user chooses otherwise; ``per_cost`` for scores in units of the
    loss."""

    dead_first: ClassVar[bool] = True
    """Whether a channel without any effect on the output always has the lowest score. False for criteria that measure
    something else, such as how well a channel can be replaced."""

    reduction: Reduction = "mean"

    def __post_init__(self) -> None:
        if self.reduction not in get_args(Reduction):
            offered = nearest(str(self.reduction), get_args(Reduction))
            raise UserError(f"reduction: {self.reduction!r} does not exist. {offered}")

    @property
    def about(self) -> About:
        """The criterion's row in the table of methods."""
        return About(self.origin, self.reads, self.covers, COSTS[self.reads])

    @abstractmethod
    def score(self, context: PruningContext) -> Scores:
        """The scores of all groups and blocks that may be removed at ``context.levels``. The network is unchanged."""


def warn_not_pruned(context: PruningContext, groups: Sequence[str], why: str) -> None:
    """Warn about groups that a criterion cannot score; they are not pruned."""
    if groups:
        warn(f"{len(groups)} groups of {context.name} are not pruned, as they {why}: {', '.join(groups)}.")


def joined(members: Sequence[np.ndarray], reduction: Reduction) -> np.ndarray:
    """The scores (size,) of a group from those of its members, each (size,)."""
    stacked = np.stack(members)
    if reduction == "sum":
        return stacked.sum(axis=0)
    return stacked.max(axis=0) if reduction == "max" else stacked.mean(axis=0)
