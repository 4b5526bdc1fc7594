"""What makes runs belong to one row of a table: all that they are called by, but for the seed."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.records.schema import Failure, Record

LEVELS = ("filter", "stage", "block")


@dataclass(frozen=True)
class RowKey:
    """What a row is about. ``settings`` tells apart rows that have all else in common."""

    method: str
    levels: tuple[str, ...]
    allocation: str
    resource: str
    keep: float
    divisor: int
    recipe: str
    settings: str = ""

    @classmethod
    def of(cls, run: Record | Failure) -> RowKey:
        known = [level for level in LEVELS if level in run.levels]
        others = sorted(set(run.levels) - set(LEVELS))
        return cls(
            method=run.method,
            levels=(*known, *others),
            allocation=run.budget.allocation,
            resource=run.budget.resource,
            keep=run.budget.keep,
            divisor=run.budget.divisor,
            recipe=run.recipe,
        )
