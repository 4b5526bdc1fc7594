"""The stage table of a run: the stages of its record, and those of its deployment in other runtimes."""

from __future__ import annotations

from typing import Any

from prunelab.records.deployment import Deployment, Percentiles, Stage
from prunelab.report.aggregate import aggregate
from prunelab.report.page.content import content_of
from prunelab.report.read import read_study
from prunelab.report.stages import stage_lines, stage_table


def stage(name: str, runtime: str = "onnxruntime", precision: str = "fp32", **more: Any) -> Stage:
    values = {
        "bytes": 400_000, "top1": 0.9, "top5": 0.99, "agreement": None, "largest_difference": None,
        "latency_ms": {1: Percentiles(1.5, 2.25)},
    }  # fmt: skip
    return Stage(name, runtime, precision, **(values | more))


IN_RECORD = [
    stage("full", bytes=1_100_000, top1=0.95, flops=80_000_000, params=800_000),
    stage("pruned", top1=0.5, flops=40_000_000, params=400_000),
    stage("low rank", flops=20_000_000, params=200_000),
]
DEPLOYED = Deployment(
    "l1-0.5-0", "ResNet", {}, {}, "model_int8.onnx", {}, 18, 100, 12.0, None,
    (
        stage("full", "eager"),
        stage("pruned", "eager"),
        stage("full", top1=None, top5=None),
        stage("pruned", agreement=1.0, largest_difference=1e-5),
        stage("pruned", precision="int8", bytes=100_000, agreement=0.98, largest_difference=0.5),
    ),
    (), {}, {}, None, "2026-11-24T10:02:00+00:00",
)  # fmt: skip


def plain(each: Stage) -> dict[str, Any]:
    times = {str(batch): vars(found) for batch, found in each.latency_ms.items()}
    return {**vars(each), "latency_ms": times}


def test_the_page_has_all_stages_of_a_run(study: Any) -> None:
    study.finished("l1", lowrank="svd, flops=0.7", stages=[plain(each) for each in IN_RECORD])
    study.write("l1-0.5-0/deployment/deployment.json", DEPLOYED.to_json())
    study.finished("l1", seed=1)  # of an earlier version

    tables = content_of(aggregate(read_study(study.path)), "demo")["tables"]

    low, plain_row = sorted(tables[0]["rows"], key=lambda row: "svd" not in row["label"])
    assert low["label"] == "l1 · svd, flops=0.7"
    assert plain_row["runs"][0]["stages"] is None
    found = low["runs"][0]["stages"]
    assert found["headings"] == [
        "stage", "top-1", "top-5", "as fp32", "differs", "FLOPs, M", "parameters, k", "size", "batch 1: p50 / p90",
    ]  # fmt: skip
    times = "1.50 / 2.25 ms"
    assert found["rows"] == [
        ["full, onnxruntime", "95.00%", "99.00%", "", "", "80.00", "800.00", "1.10 MB", times],
        ["pruned, onnxruntime", "50.00%", "99.00%", "", "", "40.00", "400.00", "400 KB", times],
        ["low rank, onnxruntime", "90.00%", "99.00%", "", "", "20.00", "200.00", "400 KB", times],
        ["full, exported, onnxruntime", "", "", "", "", "80.00", "800.00", "400 KB", times],
        ["exported, onnxruntime", "90.00%", "99.00%", "100.00%", "1e-05", "40.00", "400.00", "400 KB", times],
        ["exported, onnxruntime, int8", "90.00%", "99.00%", "98.00%", "0.5", "40.00", "400.00", "100 KB", times],
    ]  # fmt: skip


def test_rows_with_and_without_low_rank_are_separate(study: Any) -> None:
    study.finished("l1", top1=0.9)
    study.finished("l1", folder="other", key="other", top1=0.8, lowrank="svd, flops=0.7")
    (table,) = aggregate(read_study(study.path)).tables
    assert sorted(row.key.lowrank for row in table.rows) == ["", "svd, flops=0.7"]


def test_a_damaged_deployment_is_named_and_the_run_counts(study: Any) -> None:
    study.finished("l1")
    study.write("l1-0.5-0/deployment/deployment.json", "{")
    found = read_study(study.path)
    assert len(found.finished) == 1 and found.finished[0].deployment is None
    assert "exported stages are not shown: not valid JSON" in found.problems[0].reason


def test_lines_are_aligned() -> None:
    lines = stage_lines([IN_RECORD[0], stage("low rank", latency_ms={64: Percentiles(10.0, 12.5)})])
    assert lines[1].split() == ["full,", "onnxruntime", "95.00%", "99.00%", "80.00", "800.00", "1.10", "MB",
                                "1.50", "/", "2.25", "ms"]  # fmt: skip
    assert len({len(line) for line in lines}) == 1
    assert stage_table([]) == ([], [])
