"""Aggregates the runs of a study into tables with one row per method and budget, over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from prunelab.records.schema import Record
from prunelab.report.measures import MEASURES, Statistic, is_chance, timed_under_load
from prunelab.report.pareto import COSTS, TIMES, Point, on_front
from prunelab.report.published import Published, PublishedPoint, beside
from prunelab.report.read import FailedRun, FinishedRun, Problem, Study, UnfinishedRun
from prunelab.report.row_key import RowKey
from prunelab.report.screen import screen
from prunelab.report.settings import telling_settings

SAME_BASELINE = 0.001
"""Largest difference of the top-1 of one network between machines (a tenth of a point)."""

Statistics = Mapping[str, Statistic | None]
"""The name of a measure -> its statistic over seeds."""


@dataclass(frozen=True)
class Row:
    """The finished runs of one ``RowKey``; ``missing_seeds`` are seeds of other rows without a run in this row.

    ``front`` names the costs (of ``pareto.COSTS``) for which neither another row nor the full network dominates this
    row; ``published`` is the published point of the method near this budget.
    """

    key: RowKey
    runs: tuple[FinishedRun, ...]
    seeds: tuple[int, ...]
    missing_seeds: tuple[int, ...]
    statistics: Statistics
    front: frozenset[str] = frozenset()
    published: PublishedPoint | None = None

    @property
    def timed_under_load(self) -> bool:
        """Whether other processes used the machine while a run of the row was timed."""
        return any(timed_under_load(run.record) for run in self.runs)

    @property
    def machines(self) -> frozenset[str]:
        """The machines on which the runs were timed."""
        return frozenset(_machine(run.record) for run in self.runs)

    @property
    def is_chance(self) -> bool:
        """Whether the mean accuracy is at chance level."""
        top1 = self.statistics["top1"]
        return top1 is not None and any(is_chance(run.record, top1.mean) for run in self.runs)


@dataclass(frozen=True)
class Baseline:
    """The full networks that the runs of a table started from, one for each seed."""

    seeds: tuple[int, ...]
    statistics: Statistics
    differing_seeds: tuple[int, ...]
    """Seeds whose runs started from different networks; their methods are not comparable."""
    chance_seeds: tuple[int, ...] = ()
    """Seeds whose full network is at chance level."""


@dataclass(frozen=True)
class Table:
    """All runs of one model on one data set. ``baseline`` is None if no run has finished."""

    model: str
    data: str
    baseline: Baseline | None
    rows: tuple[Row, ...]
    failed: tuple[FailedRun, ...]
    machines: tuple[str, ...]
    """The machines on which the runs were timed, as described in the records."""
    published: tuple[PublishedPoint, ...]
    """All published points for this network, with or without a comparable row."""

    @property
    def only_published(self) -> tuple[PublishedPoint, ...]:
        """The points without a comparable row."""
        beside_rows = {row.published for row in self.rows}
        return tuple(point for point in self.published if point not in beside_rows)


@dataclass(frozen=True)
class Report:
    """The content of a report."""

    study: str
    tables: tuple[Table, ...]
    unfinished: tuple[UnfinishedRun, ...]
    problems: tuple[Problem, ...]


def aggregate(study: Study, published: Published | None = None) -> Report:
    """The tables of a study, by model and data set; rows by budget, the largest first, then by top-1."""
    study = screen(study)
    published = published or Published()
    runs: defaultdict[tuple[str, str], list[FinishedRun]] = defaultdict(list)
    failed: defaultdict[tuple[str, str], list[FailedRun]] = defaultdict(list)
    for run in study.finished:
        runs[run.record.model, run.record.data].append(run)
    for failure in study.failed:
        failed[failure.failure.model, failure.failure.data].append(failure)
    names = sorted(runs.keys() | failed.keys())
    tables = tuple(_table(*name, runs[name], failed[name], published.points) for name in names)
    problems = (*study.problems, *published.problems, *_without_table(published, tables))
    return Report(study.name, tables, study.unfinished, problems)


def _without_table(published: Published, tables: Iterable[Table]) -> Iterator[Problem]:
    """A problem if no point of the file is about a network of this study: it probably belongs to another study."""
    if published.path and published.points and not any(table.published for table in tables):
        flops = sorted({point.baseline_flops for point in published.points})
        full = " or ".join(f"{count / 1e9:.4g}" for count in flops)
        reason = f"its full networks have {full} GFLOPs, unlike the network of any table: points of another network"
        yield Problem(Path(published.path.name), reason)


def _table(
    model: str,
    data: str,
    runs: Sequence[FinishedRun],
    failed: Sequence[FailedRun],
    published: Iterable[PublishedPoint],
) -> Table:
    records = [run.record for run in runs]
    seeds = {record.seed for record in records} | {run.failure.seed for run in failed}
    baseline = _baseline(records) if records else None
    points = tuple(point for point in published if baseline and point.is_of(records[0].baseline.flops))
    rows = [_row(key, same_row, seeds, points) for key, same_row in _by_row(runs).items()]
    return Table(
        model=model,
        data=data,
        baseline=baseline,
        rows=tuple(sorted(_with_fronts(rows, baseline), key=_rank)) if baseline else (),
        failed=tuple(sorted(failed, key=lambda run: (run.failure.method, run.failure.seed, run.path))),
        machines=tuple(sorted({_machine(record) for record in records})),
        published=points,
    )


def _by_row(runs: Iterable[FinishedRun]) -> dict[RowKey, list[FinishedRun]]:
    same_name: defaultdict[RowKey, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        same_name[RowKey.of(run.record)].append(run)
    rows: defaultdict[RowKey, list[FinishedRun]] = defaultdict(list)
    for key, group in same_name.items():
        for run, settings in zip(group, telling_settings([run.record for run in group]), strict=True):
            rows[replace(key, settings=settings)].append(run)
    return rows


def _row(
    key: RowKey, runs: Sequence[FinishedRun], all_seeds: Iterable[int], published: Iterable[PublishedPoint]
) -> Row:
    records = [run.record for run in runs]
    seeds = {record.seed for record in records}
    statistics = _statistics(records)
    kept = statistics["flops_fraction"]
    return Row(
        key=key,
        runs=tuple(sorted(runs, key=lambda run: (run.record.seed, run.path))),
        seeds=tuple(sorted(seeds)),
        missing_seeds=tuple(sorted(set(all_seeds) - seeds)),
        statistics=statistics,
        published=beside(key.method, kept.mean, published, _row_of(records))
        if kept and not key.lowrank and not key.precision
        else None,
    )


def _row_of(records: Iterable[Record]) -> str | None:
    """The row of an experiment that all these runs have; None if there is none, and in records of earlier versions."""
    rows = {record.config.get("names", {}).get("row") for record in records}
    return rows.pop() if len(rows) == 1 else None


def _with_fronts(rows: Sequence[Row], baseline: Baseline) -> list[Row]:
    """The rows with their fronts. A row at chance level is on no front, even if its networks are cheap.

    Times are compared between rows of the same machines.
    """
    fronts: defaultdict[RowKey, set[str]] = defaultdict(set)
    candidates = [row for row in rows if not row.is_chance]
    timed: defaultdict[frozenset[str], list[Row]] = defaultdict(list)
    for row in candidates:
        timed[row.machines].append(row)
    comparable = [
        (same, _baseline([run.record for row in same for run in row.runs]), TIMES) for same in timed.values()
    ]
    for same, full, costs in [*comparable, (candidates, baseline, COSTS.keys() - TIMES)]:
        for cost in costs:
            for key in _front(same, full, cost):
                fronts[key].add(cost)
    return [replace(row, front=frozenset(fronts[row.key])) for row in rows]


def _front(rows: Sequence[Row], baseline: Baseline, cost: str) -> list[RowKey]:
    """The rows that neither another of them nor the full network dominates."""
    points = {row.key: point for row in rows if (point := _point(row.statistics, cost, "top1"))}
    full = _point(baseline.statistics, COSTS[cost], "baseline_top1")
    everything = [*points.values(), *([full] if full else [])]
    return [key for key, point in points.items() if on_front(point, everything)]


def _point(statistics: Statistics, cost: str, accuracy: str) -> Point | None:
    x, y = statistics[cost], statistics[accuracy]
    return (x.mean, y.mean) if x and y else None


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
        key.lowrank,
        key.target,
        key.precision,
        key.settings,
    )


def _statistics(records: Sequence[Record]) -> dict[str, Statistic | None]:
    return {measure.name: Statistic.of(map(measure.read, records)) for measure in MEASURES}


def _baseline(records: Sequence[Record]) -> Baseline:
    by_seed: defaultdict[int, list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (record.seed, record.key)):
        by_seed[record.seed].append(record)
    # Every run times the baseline again, but its accuracy depends only on the seed: each seed counts once.
    accuracies = _statistics([same_seed[0] for same_seed in by_seed.values()])
    return Baseline(
        seeds=tuple(by_seed),
        statistics=_statistics(records)
        | {name: accuracies[name] for name in ("baseline_top1", "baseline_top5")},
        differing_seeds=tuple(
            seed for seed, same_seed in by_seed.items() if _spread(same_seed) > SAME_BASELINE
        ),
        chance_seeds=tuple(
            seed
            for seed, same_seed in by_seed.items()
            if any(is_chance(record, record.baseline.top1) for record in same_seed)
        ),
    )


def _spread(records: Sequence[Record]) -> float:
    accuracies = [record.baseline.top1 for record in records]
    return max(accuracies) - min(accuracies)


def _machine(record: Record) -> str:
    return ", ".join(f"{name} {value}" for name, value in record.hardware.items())
