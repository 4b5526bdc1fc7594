"""The sentences around a table: definitions, missing runs and warnings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from prunelab.report import checklist
from prunelab.report.aggregate import Report, Table
from prunelab.report.columns import UNDER_LOAD, Layout, budget_text, levels_text, share_text
from prunelab.report.pareto import SAME_COST
from prunelab.report.quantities import one_line
from prunelab.report.read import UnfinishedRun
from prunelab.report.row_key import RowKey

CAPTION = (
    "Accuracies: on the test set after the last epoch, in percent; the change is the difference from the baseline of "
    "the same run. FLOPs (2 x MAC + bias) and MACs: for one image; in brackets the fraction of the baseline that is "
    "kept. Times: one forward pass; in brackets the speed-up over the baseline, which is timed in the same run. The "
    "FLOPs ratio is the speed-up in theory. Pruning: seconds for learning, scoring and pruning. Front: no other row, "
    "nor the baseline, is at least as accurate at the same or a lower cost and better in one of the two; costs that "
    f"differ by at most {100 * SAME_COST:g} % count as the same. F: FLOPs, P: parameters, T: time for a batch of "
    "64, compared between rows that were timed on the same machines."
)
PUBLISHED = (
    "Published figures: from the paper of the row's method, at the published point with nearly the same fraction of "
    "FLOPs; their change is computed from the published accuracies."
)
BEST_EPOCH = "Best epoch: the epoch of the recovery with the highest top-1 on the validation images."
SPREAD = "±: sample standard deviation over seeds, '-' for a single seed."
FORGOTTEN = "A failed run is listed until it succeeds or its folder is deleted."
ONE_SEED = "Each row has one seed, so there are no standard deviations."


def caption(report: Report) -> list[str]:
    """The definitions of the numbers in the tables, in one line, if there are rows."""
    rows = [row for table in report.tables for row in table.rows]
    single = all(len(row.seeds) == 1 for row in rows)
    best = [BEST_EPOCH] if any(row.statistics["best_epoch_top1"] for row in rows) else []
    published = [PUBLISHED] if any(row.published for row in rows) else []
    return [" ".join([CAPTION, *best, ONE_SEED if single else SPREAD, *published])] if rows else []


def title(table: Table) -> str:
    """The model and the data set of the table."""
    return one_line(f"{table.model} on {table.data}")


def common(layout: Layout) -> list[str]:
    """A line with the names that are equal in all rows of the table, if there are any."""
    return [f"All rows: {', '.join(layout.common)}."] if layout.common else []


def failures(table: Table) -> list[str]:
    """A line for each failed run of the table, and one that explains how to remove these lines."""
    lines = [
        f"failed: {_named(RowKey.of(run.failure))}, seed {run.failure.seed}: "
        f"{one_line(run.failure.error)} ({one_line(str(run.path))})"
        for run in table.failed
    ]
    return [*lines, FORGOTTEN] if lines else []


def warnings(table: Table) -> list[str]:
    """Warnings about the table: missing seeds, baselines, chance level, load and machines during timing."""
    failed = {(RowKey.of(run.failure), run.failure.seed) for run in table.failed}
    lines = []
    for row in table.rows:
        silent = [seed for seed in row.missing_seeds if (replace(row.key, settings=""), seed) not in failed]
        if silent:
            lines.append(f"missing: {_named(row.key)} has no record for {_seeds(silent)}, unlike other rows")
    if table.baseline and table.baseline.differing_seeds:
        lines.append(
            f"not comparable: the runs of {_seeds(table.baseline.differing_seeds)} started from baselines of "
            "different accuracy"
        )
    if table.baseline and table.baseline.chance_seeds:
        lines.append(
            f"chance level: the full network of {_seeds(table.baseline.chance_seeds)} is not better than guessing, so "
            "the runs that start from it do not compare the methods"
        )
    if at_chance := [_named(row.key) for row in table.rows if row.is_chance]:
        lines.append(f"chance level: on no front, because not better than guessing: {'; '.join(at_chance)}")
    lines += load(table)
    if len(table.machines) > 1:
        machines = "; ".join(map(one_line, table.machines))
        lines.append(
            f"timed on {len(table.machines)} machines, so compare speed-ups rather than times: {machines}"
        )
    return lines


def load(table: Table) -> list[str]:
    """A line about the rows that were timed while other processes used the machine, if there are any."""
    rows = [row for row in table.rows if row.timed_under_load]
    if not rows:
        return []
    most = max(run.record.timings.other_load or 0.0 for row in rows for run in row.runs)
    return [
        f"{UNDER_LOAD} timed while other processes used up to {most:.1f} cores: the times in {len(rows)} of "
        f"{len(table.rows)} rows are too long; compare speed-ups, or repeat these runs alone"
    ]


def flags(table: Table) -> list[str]:
    """A line for each published point with a figure that contradicts the others."""
    return [
        f"published: {one_line(point.method)} at {100 * point.flops_fraction:.1f} % of its FLOPs: "
        f"{one_line(point.note or point.flag, 400)}"
        for point in table.published
        if point.flag
    ]


def unmet(table: Table, report: Report) -> list[str]:
    """A line with the items of the checklist that the table or the whole report does not meet, if there are any."""
    items = [*checklist.of_table(table), *checklist.of_report(report)] if table.rows else []
    lacking = [f"{item.demand.lower()} ({item.finding})" for item in items if not item.met]
    met = f"{len(items) - len(lacking)} of {len(items)} items of Blalock et al. (2020) are met"
    return [f"checklist: {met}; not met: {'; '.join(lacking)}"] if lacking else []


def demands(items: Iterable[checklist.Item]) -> list[str]:
    """A line for each item of the checklist."""
    return [f"{'met' if item.met else 'not met'}: {item.demand.lower()}: {item.finding}" for item in items]


def unfinished(report: Report) -> list[str]:
    """A line for each run folder without a record."""
    return [f"unfinished: {_intended(run)} is running or was interrupted" for run in report.unfinished]


def left_out(report: Report) -> list[str]:
    """A line for each file that cannot be used."""
    return [
        f"left out: {one_line(str(problem.path))}: {one_line(problem.reason, 400)}"
        for problem in report.problems
    ]


def _named(key: RowKey) -> str:
    parts = (
        key.method,
        levels_text(key),
        key.allocation,
        budget_text(key),
        key.recipe,
        key.lowrank,
        key.target,
        key.precision,
        key.settings,
    )
    return one_line(", ".join(part for part in parts if part))


def _seeds(seeds: Iterable[int]) -> str:
    numbers = [str(seed) for seed in seeds]
    return f"seed {numbers[0]}" if len(numbers) == 1 else f"seeds {', '.join(numbers)}"


def _intended(run: UnfinishedRun) -> str:
    if run.intention is None:
        return one_line(str(run.path))
    wanted = run.intention
    budget = [share_text(resource, keep) for resource, keep in wanted.keep.items()]
    parts = (
        wanted.method,
        "+".join(wanted.levels),
        *budget,
        f"{wanted.model} on {wanted.data}",
        f"seed {wanted.seed}",
    )
    return one_line(f"{', '.join(parts)} ({run.path})")
