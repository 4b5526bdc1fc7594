"""The final width of each group, for methods that use it while they learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from prunelab.errors import UserError
from prunelab.methods.allocation.from_scores import keep_best
from prunelab.methods.allocation.scores import Scores
from prunelab.methods.context import PruningContext


def uniform_widths(context: PruningContext, keep: float | None = None) -> dict[str, int]:
    """The number of channels of each group if all keep the same fraction: ``keep``, or the one that meets the budget.

    Raises:
        UserError: the budget cannot be reached.
    """
    if keep is not None:
        return {
            group.name: max(1, group.size - int(group.size * (1 - keep) + 1e-9)) for group in context.groups
        }
    uniform = replace(context, allocation=replace(context.allocation, rule="uniform"))
    alike = Scores({group.name: np.ones(group.size) for group in context.groups})
    return {name: len(kept) for name, kept in keep_best(uniform, alike).kept.items()}


def require_fraction(name: str, value: float | None) -> None:
    """Check a fraction of the channels of a group to keep.

    Raises:
        UserError: it is not in (0, 1].
    """
    if value is not None and not 0 < value <= 1:
        raise UserError(f"{name}={value} is not a fraction of channels to keep: use a number in (0, 1].")
