"""The key, the folder and the record of a run. Nothing in this package imports torch."""

from prunelab.records.atomic import write_atomically
from prunelab.records.claim import Claim, ClaimLost, claimed
from prunelab.records.fields import RecordError
from prunelab.records.folder import BASELINES, RunFolder, unwritable
from prunelab.records.input_format import InputFormat
from prunelab.records.key import baseline_key, run_key
from prunelab.records.parts import (
    Accuracy,
    BestEpoch,
    BudgetSummary,
    Calibrated,
    GitState,
    Metrics,
    PlanSummary,
    Timings,
)
from prunelab.records.schema import Failure, Record
from prunelab.records.test_set import TestSet

__all__ = [
    "BASELINES",
    "Accuracy",
    "BestEpoch",
    "BudgetSummary",
    "Calibrated",
    "Claim",
    "ClaimLost",
    "Failure",
    "GitState",
    "InputFormat",
    "Metrics",
    "PlanSummary",
    "Record",
    "RecordError",
    "RunFolder",
    "TestSet",
    "Timings",
    "baseline_key",
    "claimed",
    "run_key",
    "unwritable",
    "write_atomically",
]
