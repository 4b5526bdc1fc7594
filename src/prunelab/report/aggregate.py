"""Gathers the runs of a study into tables with one row per method and budget, over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from prunelab.records.schema import Record
from prunelab.report.measures import MEASURES, Statistic
from prunelab.report.read import FailedRun, Problem, Study, UnfinishedRun
from prunelab.report.row_key import RowKey
from prunelab.report.screen import screen
from prunelab.report.settings import telling_settings

SAME_BASELINE = 0.001
"""Two evaluations of one network may differ by this much in top-1 (a tenth of a point) between machines."""

Statistics = Mapping[str, Statistic | None]
"""The name of a measure -> its statistic over seeds."""


@dataclass(frozen=True)
class Row:
    """The finished runs of one ``RowKey``; ``missing_seeds`` are those that only other rows have."""

    key: RowKey
    seeds: tuple[int, ...]
    missing_seeds: tuple[int, ...]
    statistics: Statistics


@dataclass(frozen=True)
class Baseline:
    """The full networks that the runs of a table started from, one for each seed."""

    seeds: tuple[int, ...]
    statistics: Statistics
    differing_seeds: tuple[int, ...]
    """Seeds whose runs did not all start from the same network: their methods are not comparable."""


@dataclass(frozen=True)
class Table:
    """All runs of one model on one data set. ``baseline`` is None if none of them has finished."""

    model: str
    data: str
    baseline: Baseline | None
    rows: tuple[Row, ...]
    failed: tuple[FailedRun, ...]
    machines: tuple[str, ...]
    """The machines that the runs were timed on, each described by its record."""


@dataclass(frozen=True)
class Report:
    """What there is to show of a study."""

    study: str
    tables: tuple[Table, ...]
    unfinished: tuple[UnfinishedRun, ...]
    problems: tuple[Problem, ...]


def aggregate(study: Study) -> Report:
    """The tables of a study, by model and data set; rows by budget, the largest first, then by top-1."""
    study = screen(study)
    records: defaultdict[tuple[str, str], list[Record]] = defaultdict(list)
    failed: defaultdict[tuple[str, str], list[FailedRun]] = defaultdict(list)
    for run in study.finished:
        records[run.record.model, run.record.data].append(run.record)
    for failure in study.failed:
        failed[failure.failure.model, failure.failure.data].append(failure)
    names = sorted(records.keys() | failed.keys())
    tables = tuple(_table(*name, records[name], failed[name]) for name in names)
    return Report(study.name, tables, study.unfinished, study.problems)


def _table(model: str, data: str, records: Sequence[Record], failed: Sequence[FailedRun]) -> Table:
    seeds = {record.seed for record in records} | {run.failure.seed for run in failed}
    rows = [_row(key, same_row, seeds) for key, same_row in _by_row(records).items()]
    return Table(
        model=model,
        data=data,
        baseline=_baseline(records) if records else None,
        rows=tuple(sorted(rows, key=_rank)),
        failed=tuple(sorted(failed, key=lambda run: (run.failure.method, run.failure.seed, run.path))),
        machines=tuple(sorted({_machine(record) for record in records})),
    )


def _by_row(records: Iterable[Record]) -> dict[RowKey, list[Record]]:
    same_name: defaultdict[RowKey, list[Record]] = defaultdict(list)
    for record in records:
        same_name[RowKey.of(record)].append(record)
    rows: defaultdict[RowKey, list[Record]] = defaultdict(list)
    for key, group in same_name.items():
        for record, settings in zip(group, telling_settings(group), strict=True):
            rows[replace(key, settings=settings)].append(record)
    return rows


def _row(key: RowKey, records: Sequence[Record], all_seeds: Iterable[int]) -> Row:
    seeds = {record.seed for record in records}
    return Row(
        key=key,
        seeds=tuple(sorted(seeds)),
        missing_seeds=tuple(sorted(set(all_seeds) - seeds)),
        statistics=_statistics(records),
    )


def _rank(row: Row) -> tuple[object, ...]:
    top1 = row.statistics["top1"]
    assert top1 is not None  # every record has it
    key = row.key
    return (
        key.resource,
        -key.keep,
        -top1.mean,
        key.method,
        key.levels,
        key.allocation,
        key.recipe,
        key.settings,
    )


def _statistics(records: Sequence[Record]) -> dict[str, Statistic | None]:
    return {measure.name: Statistic.of(map(measure.read, records)) for measure in MEASURES}


def _baseline(records: Sequence[Record]) -> Baseline:
    by_seed: defaultdict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.seed, record.key)):
        by_seed[record.seed].append(record)
    # Every run times the baseline anew, but its accuracy is a property of the seed: one vote each.
    accuracies = _statistics([same_seed[0] for same_seed in by_seed.values()])
    return Baseline(
        seeds=tuple(by_seed),
        statistics=_statistics(records)
        | {name: accuracies[name] for name in ("baseline_top1", "baseline_top5")},
        differing_seeds=tuple(
            seed for seed, same_seed in by_seed.items() if _spread(same_seed) > SAME_BASELINE
        ),
    )


def _spread(records: Sequence[Record]) -> float:
    accuracies = [record.baseline.top1 for record in records]
    return max(accuracies) - min(accuracies)


def _machine(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.hardware.items())
