"""What is kept of a run: its key, its folder, its record; and the baselines that runs share."""

from prunelab.records.atomic import write_atomically
from prunelab.records.baselines import Baseline, BaselineStore
from prunelab.records.claim import claimed
from prunelab.records.environment import git_state, hardware, versions
from prunelab.records.fields import RecordError
from prunelab.records.folder import BASELINES, RunFolder
from prunelab.records.key import baseline_key, run_key
from prunelab.records.schema import (
    Accuracy,
    BudgetSummary,
    Failure,
    GitState,
    Metrics,
    PlanSummary,
    Record,
    Timings,
)

__all__ = [
    "BASELINES",
    "Accuracy",
    "Baseline",
    "BaselineStore",
    "BudgetSummary",
    "Failure",
    "GitState",
    "Metrics",
    "PlanSummary",
    "Record",
    "RecordError",
    "RunFolder",
    "Timings",
    "baseline_key",
    "claimed",
    "git_state",
    "hardware",
    "run_key",
    "versions",
    "write_atomically",
]
