"""PlanSteps: a network's history of pruning, factorisation and binarisation, in order, as plain data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from prunelab.errors import UserError
from prunelab.strict_json import loads_strictly
from prunelab.structure.binarised import Binarisation
from prunelab.structure.low_rank import Factorisation
from prunelab.structure.plan import PruningPlan

VERSION = 2
"""Of the JSON; version 1 is that of a ``PruningPlan`` alone."""

MOST_STEPS = 1000

Step = PruningPlan | Factorisation | Binarisation


@dataclass(frozen=True)
class PlanSteps:
    """What was done to a full network: plans, factorisations and binarisations in their order.

    Names in a step are those of the network after the steps before it. Consecutive plans are composed to one.
    """

    steps: tuple[Step, ...]

    def compose(self, later: Step | PlanSteps) -> PlanSteps:
        """The steps of this object followed by ``later``."""
        steps = list(self.steps)
        for step in steps_of(later):
            if isinstance(step, PruningPlan) and steps and isinstance(steps[-1], PruningPlan):
                steps[-1] = steps[-1].compose(step)
            else:
                steps.append(step)
        return PlanSteps(tuple(steps))

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(
            {"version": VERSION, "steps": [_plain(each) for each in self.steps]},
            sort_keys=True,
            separators=(",", ":"),
        )

    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()


Plan = PruningPlan | PlanSteps
"""What ``network.prunelab_plan`` holds: a plan, or steps if layers were replaced."""


def steps_of(plan: Plan | Step | None) -> tuple[Step, ...]:
    """The steps of a plan; none for None."""
    if plan is None:
        return ()
    return plan.steps if isinstance(plan, PlanSteps) else (plan,)


def composed(earlier: Plan | None, later: Step) -> Plan:
    """The plan of a network with the plan ``earlier`` after one more step."""
    if isinstance(later, PruningPlan):
        return later if earlier is None else earlier.compose(later)
    return PlanSteps(steps_of(earlier)).compose(later)


def plan_from_json(text: str) -> Plan:
    """Read a plan, or steps, from JSON. Raises UserError for anything else."""
    try:
        raw = loads_strictly(text)
    except ValueError as error:
        raise UserError(f"not a pruning plan: broken JSON ({error})") from error
    if not isinstance(raw, dict) or raw.get("version") != VERSION:
        return PruningPlan.from_json(text)
    steps = raw.get("steps")
    if set(raw) != {"version", "steps"} or not isinstance(steps, list) or not 0 < len(steps) <= MOST_STEPS:
        raise UserError(f"not a valid pruning plan: it needs 1 to {MOST_STEPS} steps and nothing else")
    return PlanSteps(tuple(_step(each) for each in steps))


def _plain(step: Step) -> Any:
    if isinstance(step, PruningPlan):
        return json.loads(step.to_json())
    if isinstance(step, Factorisation):
        return {"factorised": step.to_list()}
    return {"binarised": list(step.layers)}


def _step(raw: Any) -> Step:
    kind = set(raw) if isinstance(raw, dict) else set()
    try:
        if kind == {"factorised"}:
            return Factorisation.from_list(raw["factorised"])
        if kind == {"binarised"}:
            return Binarisation.from_list(raw["binarised"])
        return PruningPlan.from_json(json.dumps(raw))
    except ValueError as error:
        raise UserError(f"not a valid pruning plan: {error}") from error
