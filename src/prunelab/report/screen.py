"""Removes valid records that do not belong in one table with the others."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import replace

from prunelab.records.parts import Metrics
from prunelab.report.read import FinishedRun, Problem, Study
from prunelab.report.row_key import RowKey
from prunelab.report.settings import settings_of


def screen(study: Study) -> Study:
    """The study without copies, runs of another task and outdated runs; each of these becomes a ``Problem``."""
    finished, copies = _without_copies(study.finished)
    finished, strangers = _without_strangers(finished)
    finished, outdated = _without_outdated(finished)
    problems = sorted([*study.problems, *copies, *strangers, *outdated], key=lambda problem: problem.path)
    return replace(study, finished=tuple(finished), problems=tuple(problems))


def _without_copies(runs: Iterable[FinishedRun]) -> tuple[list[FinishedRun], list[Problem]]:
    """One run of each key: the one whose folder is named by the key, or else the first."""
    kept: list[FinishedRun] = []
    problems: list[Problem] = []
    for same_key in _grouped(runs, lambda run: run.record.key):
        original = next((run for run in same_key if run.path.parent.name == run.record.key), same_key[0])
        kept.append(original)
        reason = f"has the same key as {original.path}: a run must not be counted twice"
        problems += [Problem(run.path, reason) for run in same_key if run is not original]
    return kept, problems


def _without_strangers(runs: Iterable[FinishedRun]) -> tuple[list[FinishedRun], list[Problem]]:
    """For each name of model and data, only the runs whose full networks have the same costs.

    Other costs mean another number of classes, image size or architecture, that is, another task. The most frequent
    costs are kept.
    """
    kept: list[FinishedRun] = []
    problems: list[Problem] = []
    for same_names in _grouped(runs, lambda run: (run.record.model, run.record.data)):
        usual, _ = Counter(_cost(run.record.baseline) for run in same_names).most_common(1)[0]
        for run in same_names:
            if _cost(run.record.baseline) == usual:
                kept.append(run)
            else:
                problems.append(Problem(run.path, _stranger(run, usual)))
    return kept, problems


def _without_outdated(runs: Iterable[FinishedRun]) -> tuple[list[FinishedRun], list[Problem]]:
    """Only the newest of runs that differ only in their key (because the file of the baseline has changed)."""
    kept: list[FinishedRun] = []
    problems: list[Problem] = []
    for same_run in _grouped(runs, _settings_and_seed):
        newest = max(same_run, key=lambda run: run.record.finished)
        kept.append(newest)
        reason = f"has the same settings and seed as {newest.path}, which is newer"
        problems += [Problem(run.path, reason) for run in same_run if run is not newest]
    return kept, problems


def _settings_and_seed(run: FinishedRun) -> Hashable:
    record = run.record
    settings = frozenset(settings_of(record).items())
    return record.model, record.data, RowKey.of(record), settings, record.seed


def _cost(metrics: Metrics) -> tuple[int, int]:
    return metrics.flops, metrics.params


def _stranger(run: FinishedRun, usual: tuple[int, int]) -> str:
    record = run.record
    return (
        f"its full network, {record.model} on {record.data}, has {record.baseline.flops} FLOPs and "
        f"{record.baseline.params} parameters, that of the other runs {usual[0]} and {usual[1]}: "
        "another data set or network with the same name; move this run to another study"
    )


def _grouped(runs: Iterable[FinishedRun], key: Callable[[FinishedRun], Hashable]) -> list[list[FinishedRun]]:
    groups: defaultdict[Hashable, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return list(groups.values())
