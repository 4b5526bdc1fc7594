"""Accuracy against latency on a target: the points, their front, and rows of two targets."""

from __future__ import annotations

import json
from typing import Any

from prunelab.records.deployment import Percentiles, Stage
from prunelab.report.aggregate import aggregate
from prunelab.report.page.content import content_of
from prunelab.report.read import read_study
from prunelab.report.targets import Point, targets_of

SPREAD = {"p50_ms": 1.0, "p90_ms": 1.0, "wall_p50_ms": 1.0, "wall_p90_ms": 1.0}


def stage(
    name: str, ms: float, top1: float | None, precision: str = "fp32", runtime: str = "onnxruntime"
) -> Stage:
    return Stage(name, runtime, precision, 1000, top1, None, None, None, {1: Percentiles(ms, 2 * ms)}, 10, 10)


def plain(each: Stage) -> dict[str, Any]:
    return {**vars(each), "latency_ms": {str(batch): vars(found) for batch, found in each.latency_ms.items()}}


def latency(**target: Any) -> dict[str, Any]:
    settings = {"device": "cpu", "runtime": "onnxruntime", "precision": "fp32", "batch_size": 1, "threads": 1}
    return {
        "asked": 0.5, "predicted": 0.5, "measured": 0.5, "turns": 11, "full": SPREAD, "pruned": SPREAD, "rounds": [],
        "target": settings | target, "machine": {"chip": "a processor"},
    }  # fmt: skip


def test_points_are_last_stages_with_the_front_of_each_target(study: Any) -> None:
    kept = [stage("full", 2.0, 0.75), stage("pruned", 1.0, 0.3), stage("recovered", 1.0, 0.5)]
    worse = [stage("full", 5.0, 0.75), stage("pruned", 1.5, 0.375)]
    budget = {"resource": "latency", "keep": 0.5, "reached": 0.5, "allocation": "global", "divisor": 8}
    for seed, times in ((0, kept), (1, worse[:1] + kept[1:])):
        study.finished("l1", seed, budget=budget, latency=latency(), stages=[plain(each) for each in times])
    study.finished("l2", budget=budget, latency=latency(), stages=[plain(each) for each in worse])
    (table,) = aggregate(read_study(study.path)).tables
    assert [row.key.method for row in table.rows] == ["l1", "l2"]

    found = targets_of([row.runs for row in table.rows])

    assert found == {
        "onnxruntime on cpu, batch 1, 1 thread, a processor": (
            Point(None, "full", 4.0, 0.75, on_front=True),
            Point(0, "recovered", 1.0, 0.5, on_front=True),
            Point(1, "pruned", 1.5, 0.375, on_front=False),
        )
    }
    (page,) = content_of(aggregate(read_study(study.path)), "demo")["tables"]
    assert page["targets"][0]["points"][1] == [0, "recovered", 1.0, 0.5, True]


def test_rows_of_two_targets_have_labels_and_figures_of_their_own(study: Any) -> None:
    budget = {"resource": "latency", "keep": 0.5, "reached": 0.5, "allocation": "global", "divisor": 8}
    stages = [plain(each) for each in (stage("full", 2.0, 0.75), stage("pruned", 1.0, 0.5))]
    for number, target in enumerate(({}, {"threads": 4})):
        config = json.loads(
            json.dumps({"seed": 0, "recipe": {}, "budget": {"target": latency(**target)["target"]}})
        )
        study.finished(
            "l1", folder=f"run{number}", key=f"run{number}", budget=budget, latency=latency(**target),
            stages=stages, config=config,
        )  # fmt: skip
    report = aggregate(read_study(study.path))
    (table,) = content_of(report, "demo")["tables"]
    labels = [row["label"] for row in table["rows"]]
    assert len(set(labels)) == 2
    assert {row.key.target for row in report.tables[0].rows} == {
        "onnxruntime on cpu, fp32, batch 1, 1 thread, a processor",
        "onnxruntime on cpu, fp32, batch 1, 4 threads, a processor",
    }
    assert [each["name"] for each in table["targets"]] == [
        "onnxruntime on cpu, batch 1, 1 thread, a processor",
        "onnxruntime on cpu, batch 1, 4 threads, a processor",
    ]


def test_runs_without_stages_have_no_figure(study: Any) -> None:
    study.finished("l1")
    (table,) = content_of(aggregate(read_study(study.path)), "demo")["tables"]
    assert table["targets"] == []
