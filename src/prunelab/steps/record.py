"""The record of a finished run, and the description of a failed one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from prunelab.records import BudgetSummary, Failure, PlanSummary, Record, RunFolder, Timings
from prunelab.records.classes import class_name, classes
from prunelab.records.key import KEY_SCHEMA
from prunelab.steps.environment import git_state, hardware, versions
from prunelab.steps.full import FullNetwork
from prunelab.steps.low_rank import Factorised
from prunelab.steps.measure import Figures
from prunelab.steps.quantisation import Quantised
from prunelab.steps.rounds import Pruned
from prunelab.steps.setup import Setup


def record_of(
    setup: Setup,
    full: FullNetwork,
    pruned: Pruned,
    factorised: Factorised | None,
    quantised: Quantised | None,
    figures: Figures,
    folder: RunFolder,
    config: Mapping[str, Any],
    started: datetime,
) -> Record:
    """The record of a run that has just ended."""
    plan = pruned.plan
    layers = {} if factorised is None else factorised.layers
    return Record(
        **_identity(setup, folder.key),
        budget=_budget(setup, _reached(setup, pruned, figures)),
        baseline=figures.baseline,
        after_pruning=pruned.after_pruning,
        after_calibration=pruned.after_calibration,
        pruned=figures.pruned,
        plan=PlanSummary(plan.widths, plan.dropped_blocks, plan.digest(), pruned.masked_vs_pruned, layers),
        config=config,
        timings=_timings(full, pruned, factorised, quantised, figures),
        versions=versions(),
        hardware=hardware(),
        git=git_state(),
        started=started.isoformat(timespec="seconds"),
        finished=_now(),
        best_epoch=figures.best_epoch,
        test_set=setup.task.test_set(),
        validation=figures.validation,
        title=setup.method.title,
        classes={place: class_name(target) for place, target in classes(config).items()},
        contents=folder.contents,
        key_schema=KEY_SCHEMA,
        latency=pruned.latency,
        lowrank_latency=None if factorised is None else factorised.latency,
        stages=figures.stages,
        quantisation=None if quantised is None else quantised.summary,
    )


def _reached(setup: Setup, pruned: Pruned, figures: Figures) -> float:
    """The fraction of the budget's resource that is left."""
    if pruned.latency is not None:
        return pruned.latency.measured
    resource = setup.budget.resource
    stage = next(each for each in figures.stages if each.name == "pruned")
    return float(getattr(stage, resource) / getattr(figures.baseline, resource))


def failure_of(setup: Setup, key: str, error: str) -> Failure:
    """The description of a run that ended with an error."""
    return Failure(**_identity(setup, key), budget=_budget(setup, reached=None), error=error, when=_now())


def _identity(setup: Setup, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "study": setup.study,
        "method": setup.names["method"],
        "model": setup.names["model"],
        "data": setup.names["data"],
        "recipe": setup.names["recipe"],
        "lowrank": setup.lowrank.title,
        "precision": setup.precision.title,
        "seed": setup.task.seed,
        "levels": setup.method.levels,
    }


def _budget(setup: Setup, reached: float | None) -> BudgetSummary:
    allocation = setup.method.allocation
    return BudgetSummary(
        setup.budget.resource, setup.budget.keep, reached, allocation.rule, allocation.divisor
    )


def _timings(
    full: FullNetwork,
    pruned: Pruned,
    factorised: Factorised | None,
    quantised: Quantised | None,
    figures: Figures,
) -> Timings:
    low_rank_s = 0.0 if factorised is None else factorised.seconds
    recovery_s = pruned.recovery_s + ((factorised.recovery_s or 0.0) if factorised else 0.0)
    evaluate_s = figures.seconds
    if quantised is not None:
        recovery_s, evaluate_s = recovery_s + quantised.recovery_s, evaluate_s + quantised.seconds
    parts = (full.training_s, pruned.score_s, recovery_s, evaluate_s)
    return Timings(
        *parts, total_s=sum(parts) + low_rank_s, other_load=figures.other_load, low_rank_s=low_rank_s
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
