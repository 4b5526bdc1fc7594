from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from prunelab.records.deployment import Percentiles, Stage
from prunelab.records.fields import RecordError
from prunelab.records.latency import LatencyRound, LatencySummary, Spread
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

BUDGET = BudgetSummary(resource="flops", keep=0.5, reached=0.4993, allocation="global", divisor=1)

RECORD = Record(
    key="0123456789ab",
    study="demo",
    method="l1",
    model="resnet20",
    data="digits",
    seed=0,
    levels=("filter", "stage"),
    budget=BUDGET,
    recipe="one_shot",
    baseline=Metrics(0.95, 0.999, 80, 40, 9, {1: 2.0, 64: 40.5}),
    after_pruning=Accuracy(0.5, 0.8),
    pruned=Metrics(0.94, None, 40, 20, 5, {}),
    plan=PlanSummary({"layer1": (16, 8)}, ("layer2.1",), "00ff", 1e-7, {"layer1.conv1": "spatial 4"}),
    config={"recipe": {"epochs": 5}},
    timings=Timings(0.0, 1.5, 30.0, 2.0, 34.0, other_load=0.25, low_rank_s=0.5),
    versions={"python": "3.11"},
    hardware={"gpus": []},
    git=GitState(None, False),
    started="2026-11-24T10:00:00+00:00",
    finished="2026-11-24T10:01:00+00:00",
    best_epoch=BestEpoch(7, Accuracy(0.935, 0.999), Accuracy(0.942, None)),
    test_set=TestSet(360, 0.11),
    validation=Accuracy(0.93, 0.999),
    title="L1Norm",
    classes={"method": "ImportancePruning", "method.criterion": "mine.Mine"},
    contents={"method.criterion._target_": "00ff"},
    key_schema=2,
    after_calibration=(Calibrated("bias", 0.5, 0.75, 1.5), Calibrated("sequential", 0.625, None, 12.0)),
    latency=LatencySummary(
        0.5, 0.48, 0.49, 57, Spread(4.0, 4.5, 5.0, 9.0), Spread(2.0, 2.1, 2.2, 4.0),
        (LatencyRound(0.5, 0.5, 0.54), LatencyRound(0.47, 0.48, 0.49)),
        {"device": "cpu", "runtime": "onnxruntime", "precision": "fp32", "batch_size": 1, "threads": 1},
        {"chip": "a processor"},
    ),
    lowrank="svd, flops=0.7",
    stages=(
        Stage("full", "onnxruntime", "fp32", 1000, 0.95, 0.999, None, None, {1: Percentiles(2.0, 2.5)}, 80, 9),
        Stage("low rank", "onnxruntime", "fp32", 500, 0.94, None, None, None, {1: Percentiles(1.0, 1.25)}, 20, 5),
    ),
)  # fmt: skip

FAILURE = Failure(
    key="0123456789ab",
    study="demo",
    method="l1",
    model="resnet20",
    data="digits",
    seed=0,
    levels=("filter",),
    budget=replace(BUDGET, reached=None),
    recipe="one_shot",
    error="out of memory",
    when="2026-11-24T10:00:30+00:00",
)


LATER = {
    "best_epoch",
    "latency",
    "test_set",
    "validation",
    "title",
    "classes",
    "contents",
    "key_schema",
    "after_calibration",
    "lowrank",
    "stages",
    "precision",
    "quantisation",
    "lowrank_latency",
}
"""Fields that the records of earlier versions lack."""


def test_a_record_survives_json() -> None:
    assert Record.from_json(RECORD.to_json()) == RECORD


def test_an_edited_digit_is_noticed() -> None:
    text = RECORD.to_json()
    with pytest.raises(RecordError, match="do not match their digest"):
        Record.from_json(text.replace('"seed": 0', '"seed": 1'))

    values = json.loads(text)
    assert (
        Record.from_json(json.dumps(dict(reversed(values.items())))) == RECORD
    )  # order and white space are free
    del values["digest"]
    assert Record.from_json(json.dumps(values)) == RECORD  # of an earlier version


def test_a_failure_survives_json() -> None:
    assert Failure.from_json(FAILURE.to_json()) == FAILURE


def test_a_record_is_written_as_documented() -> None:
    written = json.loads(RECORD.to_json())

    assert written["schema"] == 1
    assert written["status"] == "finished"
    assert written["levels"] == ["filter", "stage"]
    assert written["baseline"]["latency_ms"] == {"1": 2.0, "64": 40.5}
    assert written["plan"]["widths"] == {"layer1": [16, 8]}
    assert written["git"] == {"revision": None, "dirty": False}


def test_fields_that_a_later_version_adds_are_ignored() -> None:
    assert Record.from_dict({**RECORD.to_dict(), "added": 1}) == RECORD


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("schema", 2, "schema 2; this version of prunelab reads schema 1"),
        ("status", "running", "status should be 'finished', found 'running'"),
        ("seed", "0", "seed should be a whole number, 0 or more, found '0'"),
        ("seed", True, "seed should be a whole number, 0 or more, found True"),
        ("seed", 10**400, "seed should be a whole number"),
        ("levels", "filter", "levels should be a list of texts, found 'filter'"),
        ("method", None, "method should be text, found None"),
        ("budget", [], "budget should be a JSON object, found []"),
        ("budget.keep", 1.5, "budget.keep should be a fraction in [0, 1], found 1.5"),
        ("baseline.top1", 91.5, "baseline.top1 should be a fraction in [0, 1], found 91.5"),
        ("baseline.top1", float("nan"), "baseline.top1 should be a finite number, 0 or more, found nan"),
        ("pruned.flops", -1, "pruned.flops should be a whole number, 0 or more, found -1"),
        (
            "pruned.latency_ms",
            {"one": 2.0},
            "latency_ms should map batch sizes to milliseconds, found the batch size 'one'",
        ),
        ("pruned.latency_ms.64", "fast", "pruned.latency_ms.64 should be a finite number, 0 or more"),
        (
            "plan.widths.layer1",
            [16],
            "plan.widths['layer1'] should be [channels before, channels after], found [16]",
        ),
        ("git.dirty", "no", "git.dirty should be true or false, found 'no'"),
        ("timings.score_s", "x" * 99, "found 'xxxxxxx"),
    ],
)
def test_a_wrong_value_is_named(field: str, value: Any, message: str) -> None:
    values = _changed(RECORD.to_dict(), field, value)

    with pytest.raises(RecordError) as caught:
        Record.from_dict(values)

    assert message in str(caught.value)
    assert len(str(caught.value)) < 150


def test_a_record_from_before_validation_was_measured_is_read() -> None:
    values = RECORD.to_dict()
    del values["validation"]
    assert Record.from_dict(values) == replace(RECORD, validation=None)
    assert Record.from_dict({**values, "validation": None}) == replace(RECORD, validation=None)


@pytest.mark.parametrize("field", sorted(set(RECORD.to_dict()) - LATER))
def test_a_missing_field_is_named(field: str) -> None:
    values = RECORD.to_dict()
    del values[field]

    with pytest.raises(RecordError, match=f"^{field} is missing$"):
        Record.from_dict(values)


@pytest.mark.parametrize("field", sorted(set(FAILURE.to_dict()) - LATER))
def test_a_missing_field_of_a_failure_is_named(field: str) -> None:
    values = FAILURE.to_dict()
    del values[field]

    with pytest.raises(RecordError, match=f"^{field} is missing$"):
        Failure.from_dict(values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RECORD.to_json()[:200], "not valid JSON"),
        ("", "not valid JSON"),
        ("[]", "the file should be a JSON object, found []"),
        ("[" * 100_000, "nested too deeply"),
        ('{"schema": ' + "1" * 5000 + "}", "not valid JSON"),
        ('{"schema": "\\ud800"}', "not valid Unicode"),
        ('{"schema": 1, "pruned": {"top1": 0.5, "top1": 0.9}}', "'top1' occurs twice"),
    ],
)
def test_an_invalid_record_is_reported(text: str, message: str) -> None:
    with pytest.raises(RecordError) as caught:
        Record.from_json(text)

    assert message in str(caught.value)


def _changed(values: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    *parents, last = field.split(".")
    node = values
    for parent in parents:
        node = node[parent]
    node[last] = value
    return values
