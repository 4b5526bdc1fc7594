"""The key of a table row: the identity of a run without its seed."""

from __future__ import annotations

from dataclasses import dataclass

from prunelab.records.schema import Failure, Record
from prunelab.report.targets import target_text

LEVELS = ("filter", "stage", "block")


@dataclass(frozen=True)
class RowKey:
    """The identity of a row. ``settings`` distinguishes rows that are otherwise equal. ``target``: of a latency budget,
    with the machine, because latencies of two targets are not comparable."""

    method: str
    levels: tuple[str, ...]
    allocation: str
    resource: str
    keep: float
    divisor: int
    recipe: str
    settings: str = ""
    lowrank: str = ""
    target: str = ""
    precision: str = ""

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
            lowrank=run.lowrank,
            target=target_text((run.latency or run.lowrank_latency) if isinstance(run, Record) else None),
            precision=run.precision,
        )
