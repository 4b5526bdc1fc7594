"""The part of a record about a latency budget: the requested, predicted and measured latency, and the target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prunelab.records.fields import Fields


@dataclass(frozen=True)
class Spread:
    """Milliseconds of one forward pass: median and 90th percentile over all turns.

    ``p50_ms`` and ``p90_ms`` are processor time if the target has one thread; ``wall_p50_ms`` and ``wall_p90_ms`` are
    the time on the clock.
    """

    p50_ms: float
    p90_ms: float
    wall_p50_ms: float
    wall_p90_ms: float

    @classmethod
    def from_fields(cls, fields: Fields) -> Spread:
        return cls(*(fields.number(name) for name in ("p50_ms", "p90_ms", "wall_p50_ms", "wall_p90_ms")))


@dataclass(frozen=True)
class LatencyRound:
    """One network that was built and measured: fractions of the full network's latency.

    ``aim`` is the budget of the allocation, after the correction by earlier rounds.
    """

    aim: float
    predicted: float
    measured: float

    @classmethod
    def from_fields(cls, fields: Fields) -> LatencyRound:
        return cls(*(fields.number(name) for name in ("aim", "predicted", "measured")))


@dataclass(frozen=True)
class LatencySummary:
    """The result of a latency budget.

    ``asked``, ``predicted`` (by the table) and ``measured`` are fractions of the latency of the full network.
    ``rounds`` are all networks that were measured, ``turns`` the forward passes of each network in the comparison
    of the chosen one. ``target`` and ``machine`` describe the place of the measurement.
    """

    asked: float
    predicted: float
    measured: float
    turns: int
    full: Spread
    pruned: Spread
    rounds: tuple[LatencyRound, ...]
    target: Mapping[str, Any]
    machine: Mapping[str, str]

    @classmethod
    def from_fields(cls, fields: Fields) -> LatencySummary:
        return cls(
            asked=fields.fraction("asked"),
            predicted=fields.number("predicted"),
            measured=fields.number("measured"),
            turns=fields.integer("turns"),
            full=Spread.from_fields(fields.nested("full")),
            pruned=Spread.from_fields(fields.nested("pruned")),
            rounds=tuple(LatencyRound.from_fields(each) for each in fields.nested_list("rounds")),
            target=fields.mapping("target"),
            machine=fields.texts_by_name("machine"),
        )

    def __str__(self) -> str:
        """One readable line."""
        target = self.target
        threads = target.get("threads")
        return (
            f"{self.full.p50_ms:.3g} ms -> {self.pruned.p50_ms:.3g} ms ({self.measured:.1%}; asked {self.asked:.1%}, "
            f"predicted {self.predicted:.1%}) in {target.get('runtime')} on {target.get('device')}, "
            f"{target.get('precision')}, batch {target.get('batch_size')}, {threads} "
            f"thread{'' if threads == 1 else 's'}"
        )
