"""Accuracy against the latency on each target: the networks of all rows after their last stage, and exported ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from prunelab.records.deployment import Stage
from prunelab.records.latency import LatencySummary
from prunelab.records.schema import Record
from prunelab.report.pareto import on_front
from prunelab.report.read import FinishedRun
from prunelab.report.stages import EXPORTED, stages_of

FULL = "full"


@dataclass(frozen=True)
class Point:
    """A network on a target: its milliseconds (p50) and its top-1, means over runs.

    ``row`` is the number of its row, None for the full network. ``on_front``: no network on the target dominates it.
    """

    row: int | None
    stage: str
    ms: float
    top1: float
    on_front: bool = False


def target_text(summary: LatencySummary | None) -> str:
    """The target and the machine of a latency budget, "" without one."""
    if summary is None:
        return ""
    target = summary.target
    device = target.get("device", "cpu")
    return (
        f"{target.get('runtime')} on {device}, {target.get('precision')}, batch {target.get('batch_size')}, "
        f"{_threads(target.get('threads'))}, {summary.machine.get('chip', 'unknown')}"
    )


def targets_of(rows: Sequence[Sequence[FinishedRun]]) -> dict[str, tuple[Point, ...]]:
    """The points of each target, a runtime on a machine at a batch size, by its name; those with most points first.

    Args:
        rows: the runs of each row.
    """
    found: defaultdict[tuple[str, int | None, str], list[tuple[float, float]]] = defaultdict(list)
    for number, runs in enumerate(rows):
        for run in runs:
            for target, stage, batch in _timed(run):
                row = None if stage.name.startswith(FULL) else number
                if row is not None or stage.precision == "fp32":
                    found[target, row, _title(stage)].append(
                        (stage.latency_ms[batch].p50, _accuracy(run, stage))
                    )
    by_target: defaultdict[str, list[Point]] = defaultdict(list)
    for (target, row, title), values in found.items():
        ms, top1 = (fmean(each) for each in zip(*values, strict=True))
        by_target[target].append(Point(row, title, ms, top1))
    most_first = sorted(by_target.items(), key=lambda each: (-len(each[1]), each[0]))
    return {target: _with_front(points) for target, points in most_first}


def _with_front(points: Sequence[Point]) -> tuple[Point, ...]:
    pairs = [(each.ms, each.top1) for each in points]
    return tuple(
        replace(point, on_front=on_front(pair, pairs)) for point, pair in zip(points, pairs, strict=True)
    )


def _timed(run: FinishedRun) -> Iterator[tuple[str, Stage, int]]:
    """The full network, the last stage of a run in each precision, and exported ones; each with its targets."""
    stages = stages_of(run.record, run.deployment)
    own = [stage for stage in stages if EXPORTED not in stage.name]
    exported = [stage for stage in stages if EXPORTED in stage.name]
    last = {stage.precision: stage for stage in own[1:]}
    shown = [*own[:1], *last.values(), *exported]
    for stage in shown:
        if stage.top1 is None and not stage.name.startswith(FULL):
            continue
        for batch in stage.latency_ms:
            yield _target(run, stage, batch, stage in exported), stage, batch


def _target(run: FinishedRun, stage: Stage, batch: int, is_exported: bool) -> str:
    record = run.record
    if is_exported and run.deployment is not None:
        where: Mapping[str, Any] = {**run.deployment.hardware, "device": "cpu"}
        threads, device, chip = where.get("threads"), "cpu", where.get("cpu", "unknown")
        how = ", file"
    else:
        threads, device, chip = _own_target(record, stage)
        how = ""
    return f"{stage.runtime} on {device}{how}, batch {batch}, {_threads(threads)}, {chip}"


def _own_target(record: Record, stage: Stage) -> tuple[Any, str, str]:
    """Threads, device and processor on which the stages of a record were timed."""
    gpus = record.hardware.get("gpus")
    chip = str(record.hardware.get("cpu", "unknown"))
    target = record.config.get("budget", {}).get("target") or {}
    on_target = record.latency is not None or record.lowrank or record.precision
    if not on_target and stage.runtime != target.get("runtime"):  # timed on the machine of the run
        on_gpu = bool(gpus) and record.config.get("trainer", {}).get("accelerator") != "cpu"
        return (
            record.hardware.get("threads"),
            "gpu" if on_gpu else "cpu",
            str(gpus[0]) if on_gpu and gpus else chip,
        )
    device = str(target.get("device", "cpu"))
    summary = record.latency or record.lowrank_latency
    if summary is not None:
        chip = summary.machine.get("chip", chip)
    elif gpus and device.startswith("cuda"):
        chip = str(gpus[0])
    return target.get("threads", 1), device, chip


def _accuracy(run: FinishedRun, stage: Stage) -> float:
    return run.record.baseline.top1 if stage.top1 is None else stage.top1


def _title(stage: Stage) -> str:
    return stage.name if stage.precision == "fp32" else f"{stage.name}, {stage.precision}"


def _threads(number: Any) -> str:
    return "1 thread" if number == 1 else f"{number} threads"
