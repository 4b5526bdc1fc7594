"""Jobs: the parts of a run that a tracker (W&B, TensorBoard, MLflow) shows as separate runs.

There is one job for each kind of phase (``learning``, ``search``, ``round``, ``recovery``), one for the final figures
(``result``), and one for the training of the baseline (``baseline``). All runs that share a baseline have the same job
``baseline``; the run that trains the baseline logs it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from prunelab.records import Record
from prunelab.records.deployment import Stage
from prunelab.records.known_keys import RESOURCES
from prunelab.tracking.curves import EpochRow

BASELINE = "baseline"
RESULT = "result"
SEARCH = "search"


@dataclass(frozen=True)
class JobPlace:
    """The data with which a tracker starts a job.

    Attributes:
        job: its type.
        key: the key of the run, or of the baseline.
        folder: the folder of the run.
        config: the resolved configuration of the run.
    """

    job: str
    key: str
    folder: Path
    config: Mapping[str, Any]

    @property
    def identity(self) -> str:
        """A unique identity, equal for every start of this job: ``<key>-<job>``."""
        return f"{self.key}-{self.job}"

    @property
    def title(self) -> str:
        """A readable name: ``l1 flops=0.5 resnet20 digits seed 0``. A baseline has no method and no budget."""
        names, budget = self.config["names"], self.config["budget"]
        common = f"{names['model']} {names['data']} seed {self.config['seed']}"
        if self.job == BASELINE:
            return f"{BASELINE} {common}"
        limits = [f"{name}={budget[name]:g}" for name in RESOURCES if budget.get(name) is not None]
        return " ".join([names["method"], *limits, common])

    @property
    def settings(self) -> dict[str, Any]:
        """The key and the resolved configuration, nested."""
        return {"key": self.key, **self.config}


class Job(Protocol):
    """One job in a tracker."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Log the figures of an epoch; ``step`` counts the epochs of all phases of this kind from 1. For a search:
        those of an evaluation."""

    def result(self, figures: Mapping[str, float], record: Record | None) -> None:
        """Log final figures. ``record`` is None for a baseline."""

    def stages(self, stages: Sequence[Stage]) -> None:
        """Log the stages of a run that was exported, with those in other runtimes."""

    def close(self, finished: bool) -> None:
        """End the job; ``finished`` is false after an error or an interruption. Returns when everything is written."""


class NoJob:
    """A job that logs nothing."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        pass

    def result(self, figures: Mapping[str, float], record: Record | None) -> None:
        pass

    def stages(self, stages: Sequence[Stage]) -> None:
        pass

    def close(self, finished: bool) -> None:
        pass


def job_type(phase: str) -> str:
    """``round 3`` is of the type ``round``."""
    return re.sub(r" \d+$", "", phase)


def figures_of(row: EpochRow) -> dict[str, float]:
    """All numbers of an epoch, by name."""
    return {"epoch": row.epoch, "learning_rate": row.learning_rate, **row.metrics}


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The settings of a nested configuration, with dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
