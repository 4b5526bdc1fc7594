"""The parts of a record: accuracies, costs, budget, plan, times."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from prunelab.records.fields import Fields, RecordError


@dataclass(frozen=True)
class Accuracy:
    """Test-set accuracies, fractions in [0, 1]; ``top5`` is None for fewer than five classes."""

    top1: float
    top5: float | None

    @classmethod
    def from_fields(cls, fields: Fields) -> Accuracy:
        return cls(top1=fields.fraction("top1"), top5=fields.fraction_or_none("top5"))


@dataclass(frozen=True)
class Calibrated:
    """The accuracy on the test set after one calibration step, and the seconds that the step took."""

    step: str
    top1: float
    top5: float | None
    seconds: float

    @classmethod
    def from_fields(cls, fields: Fields) -> Calibrated:
        accuracy = Accuracy.from_fields(fields)
        return cls(fields.text("step"), accuracy.top1, accuracy.top5, fields.number("seconds"))

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Metrics:
    """The accuracy and the cost of one network.

    ``top1`` and ``top5`` are fractions in [0, 1]; ``flops`` (the survey's: 2 x MAC + bias) and ``macs`` are
    counts for one image; ``latency_ms`` maps a batch size to the milliseconds of one forward pass.
    """

    top1: float
    top5: float | None
    flops: int
    macs: int
    params: int
    latency_ms: Mapping[int, float]

    @classmethod
    def from_fields(cls, fields: Fields) -> Metrics:
        accuracy = Accuracy.from_fields(fields)
        return cls(
            top1=accuracy.top1,
            top5=accuracy.top5,
            flops=fields.integer("flops"),
            macs=fields.integer("macs"),
            params=fields.integer("params"),
            latency_ms=_latencies(fields.nested("latency_ms")),
        )


@dataclass(frozen=True)
class BudgetSummary:
    """The budget of a run: keep the fraction ``keep`` of ``resource``, and the fraction ``reached``.

    ``reached`` is None only in a failure.
    """

    resource: str
    keep: float
    reached: float | None
    allocation: str
    divisor: int

    @classmethod
    def from_fields(cls, fields: Fields, reached: float | None) -> BudgetSummary:
        return cls(
            resource=fields.text("resource"),
            keep=fields.fraction("keep"),
            reached=reached,
            allocation=fields.text("allocation"),
            divisor=fields.integer("divisor"),
        )


@dataclass(frozen=True)
class PlanSummary:
    """The applied plan: channels (before, after) per group, and the difference of the pruned from the masked network.

    ``factorised`` maps layers to the form and ranks that replace them, such as "spatial 4".
    """

    widths: Mapping[str, tuple[int, int]]
    dropped_blocks: tuple[str, ...]
    digest: str
    masked_vs_pruned: float
    factorised: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> PlanSummary:
        return cls(
            widths=_widths(fields.mapping("widths")),
            dropped_blocks=fields.texts("dropped_blocks"),
            digest=fields.text("digest"),
            masked_vs_pruned=fields.number("masked_vs_pruned"),
            factorised=fields.texts_by_name("factorised") if fields.has("factorised") else {},
        )


@dataclass(frozen=True)
class Timings:
    """Wall-clock seconds of the parts of a run. ``baseline_s`` is 0 if the baseline came from the store.

    ``low_rank_s``: the decomposition of layers and the reconstruction; training afterwards is part of ``recovery_s``.
    ``other_load`` is the mean number of processor cores that other processes used while forward passes were timed; None
    if it is not known.
    """

    baseline_s: float
    score_s: float
    recovery_s: float
    evaluate_s: float
    total_s: float
    other_load: float | None = None
    low_rank_s: float = 0.0

    @classmethod
    def from_fields(cls, fields: Fields) -> Timings:
        return cls(
            baseline_s=fields.number("baseline_s"),
            score_s=fields.number("score_s"),
            recovery_s=fields.number("recovery_s"),
            evaluate_s=fields.number("evaluate_s"),
            total_s=fields.number("total_s"),
            other_load=fields.number_or_none("other_load") if fields.has("other_load") else None,
            low_rank_s=fields.number("low_rank_s") if fields.has("low_rank_s") else 0.0,
        )


@dataclass(frozen=True)
class BestEpoch:
    """The epoch of the last training with the highest top-1 on the validation images (of equal ones the latest).

    ``epoch`` counts from 1; ``validation`` and ``test`` are the accuracies of the network after this epoch.
    """

    epoch: int
    validation: Accuracy
    test: Accuracy

    @classmethod
    def from_fields(cls, fields: Fields) -> BestEpoch:
        return cls(
            epoch=fields.integer("epoch"),
            validation=Accuracy.from_fields(fields.nested("validation")),
            test=Accuracy.from_fields(fields.nested("test")),
        )


@dataclass(frozen=True)
class GitState:
    """The code that made the record. ``revision`` is None if prunelab was not run from a git checkout."""

    revision: str | None
    dirty: bool

    @classmethod
    def from_fields(cls, fields: Fields) -> GitState:
        return cls(revision=fields.text_or_none("revision"), dirty=fields.flag("dirty"))


def _latencies(fields: Fields) -> dict[int, float]:
    if wrong := [name for name in fields.names() if not re.fullmatch("[0-9]{1,9}", name)]:
        raise RecordError(
            f"latency_ms should map batch sizes to milliseconds, found the batch size {wrong[0]!r}"
        )
    return {int(name): fields.number(name) for name in fields.names()}


def _widths(values: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    for group, pair in values.items():
        is_pair = isinstance(pair, list) and len(pair) == 2
        if not is_pair or not all(isinstance(width, int) and width >= 0 for width in pair):
            raise RecordError(
                f"plan.widths[{group!r}] should be [channels before, channels after], found {pair!r}"
            )
    return {group: (pair[0], pair[1]) for group, pair in values.items()}
