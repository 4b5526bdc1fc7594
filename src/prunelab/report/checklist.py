"""The checklist of "What is the State of Neural Network Pruning?" (Blalock et al. 2020), applied to a study.

The items are those of its section 6 and appendix B that can be decided from records. Items that need a reader's
judgement (whether the claims go beyond the experiments) are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from prunelab.records.schema import Record
from prunelab.report.aggregate import Report, Row, Table
from prunelab.report.quantities import one_line
from prunelab.report.settings import complete_settings

OPERATING_POINTS = 5
SEEDS = 3
PAIRS = 3
SUBSTANTIAL_LOSS = 0.05
"""A budget counts as extreme from this loss of top-1 (five points)."""

NAMED = 4
"""At most this many methods or settings are listed."""

MAGNITUDE = ("l1", "l2")
RANDOM = ("random",)


@dataclass(frozen=True)
class Item:
    """An item of the checklist, whether it is met, and the finding from the records."""

    demand: str
    met: bool
    finding: str


def of_report(report: Report) -> tuple[Item, ...]:
    """The item about all tables together."""
    pairs = [f"{table.model} on {table.data}" for table in report.tables if table.rows]
    finding = f"{len(pairs)}: {_named(pairs)}"
    demand = f"At least {PAIRS} pairs of model and data set in the study"
    return (Item(demand, len(pairs) >= PAIRS, finding),)


def of_table(table: Table) -> tuple[Item, ...]:
    """The items about one table; none if it has no rows."""
    return tuple(item(table) for item in ITEMS) if table.rows else ()


def _raw(table: Table) -> Item:
    return Item("Raw accuracy at every point", True, f"top-1 in all {len(table.rows)} rows")


def _relative(table: Table) -> Item:
    finding = "change of top-1 from the baseline of the same run"
    return Item("Accuracy relative to the full network", True, finding)


def _both_accuracies(table: Table) -> Item:
    lacking = [row.key.method for row in table.rows if row.statistics["top5"] is None]
    finding = f"no top-5: {_named(lacking)}" if lacking else "both"
    return Item("Top-1 and top-5", not lacking, finding)


def _baseline(table: Table) -> Item:
    demand = "Baseline stated, and the same for all methods"
    assert table.baseline is not None
    top1 = table.baseline.statistics["baseline_top1"]
    assert top1 is not None
    stated = f"{100 * top1.mean:.2f} % top-1 over {_counted(len(table.baseline.seeds), 'seed')}"
    differing = table.baseline.differing_seeds
    if differing:
        stated += f"; the runs of seed {', '.join(map(str, differing))} started from different networks"
    return Item(demand, not differing, stated)


def _operating_points(table: Table) -> Item:
    budgets: defaultdict[str, set[tuple[str, float]]] = defaultdict(set)
    for row in table.rows:
        budgets[row.key.method].add((row.key.resource, row.key.keep))
    short = {method: len(found) for method, found in budgets.items() if len(found) < OPERATING_POINTS}
    fewest, most = (pick(map(len, budgets.values())) for pick in (min, max))
    span = str(most) if fewest == most else f"{fewest} to {most}"
    finding = f"{span} for each of {_counted(len(budgets), 'method')}"
    if short and len(short) < len(budgets):
        finding += f"; too few: {_named(sorted(short))}"
    return Item(f"At least {OPERATING_POINTS} budgets for each method", not short, finding)


def _extreme(table: Table) -> Item:
    worst = min(statistic.mean for row in table.rows if (statistic := row.statistics["top1_change"]))
    demand = f"Budgets down to a substantial loss of accuracy ({100 * SUBSTANTIAL_LOSS:.0f} points)"
    finding = f"largest loss {-100 * worst:.2f} points" if worst < 0 else "no row loses accuracy"
    return Item(demand, worst <= -SUBSTANTIAL_LOSS, finding)


def _same_data(table: Table) -> Item:
    return _same_settings(table, "Identical data, splits and augmentation", "data.")


def _same_recovery(table: Table) -> Item:
    return _same_settings(table, "Identical recovery", "recipe.")


def _same_settings(table: Table, demand: str, part: str) -> Item:
    settings = complete_settings(_records(table.rows))
    names = [name for name in settings[0] if name.startswith(part)] if settings else []
    differing = [name for name in names if len({each[name] for each in settings}) > 1]
    if not names:
        return Item(demand, False, "not in the records")
    same = f"the same {_counted(len(names), 'setting')} in all {_counted(len(settings), 'run')}"
    return Item(demand, not differing, f"differing: {_named(differing)}" if differing else same)


def _seeds(table: Table) -> Item:
    fewest = min(len(row.seeds) for row in table.rows)
    most = max(len(row.seeds) for row in table.rows)
    finding = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return Item(f"At least {SEEDS} seeds for every row", fewest >= SEEDS, finding)


def _deviations(table: Table) -> Item:
    single = sum(len(row.seeds) == 1 for row in table.rows)
    found = f"none for {_counted(single, 'row')} with one seed" if single else "sample standard deviation"
    return Item("Mean and standard deviation", not single, found)


def _ratios(table: Table) -> Item:
    finding = "ratios of parameters and of FLOPs in all rows"
    return Item("Compression and theoretical speed-up", True, finding)


def _measured(table: Table) -> Item:
    lacking = [row.key.method for row in table.rows if not _timed(row)]
    finding = f"not timed: {_named(lacking)}" if lacking else "timed beside the baseline in the same run"
    return Item("Measured speed-up", not lacking, finding)


def _random(table: Table) -> Item:
    return _control(table, "Random pruning at every budget", RANDOM)


def _magnitude(table: Table) -> Item:
    return _control(table, "Magnitude pruning at every budget", MAGNITUDE)


def _control(table: Table, demand: str, methods: Sequence[str]) -> Item:
    budgets = {(row.key.resource, row.key.keep) for row in table.rows}
    compared = {(row.key.resource, row.key.keep) for row in table.rows if row.key.method in methods}
    finding = f"{' or '.join(methods)} at {len(compared)} of {_counted(len(budgets), 'budget')}"
    return Item(demand, compared == budgets, finding)


def _published(table: Table) -> Item:
    beside = sum(row.published is not None for row in table.rows)
    finding = (
        f"{_counted(beside, 'row')} of {len(table.rows)} beside {_counted(len(table.published), 'point')}"
    )
    return Item("Published results beside the measured ones", beside > 0, finding)


def _reproducible(table: Table) -> Item:
    records = _records(table.rows)
    unsure = [record.key for record in records if record.git.dirty or record.git.revision is None]
    finding = f"no clean revision: {_named(unsure)}" if unsure else "configuration and revision of every run"
    return Item("Code and settings of every run", not unsure, finding)


def _machine(table: Table) -> Item:
    lacking = [record.key for record in _records(table.rows) if not (record.hardware and record.versions)]
    found = f"{_counted(len(table.machines), 'machine')}, versions of all libraries"
    finding = f"not described: {_named(lacking)}" if lacking else found
    return Item("Hardware and libraries", not lacking, finding)


ITEMS: tuple[Callable[[Table], Item], ...] = (
    _raw,
    _relative,
    _both_accuracies,
    _baseline,
    _operating_points,
    _extreme,
    _same_data,
    _same_recovery,
    _seeds,
    _deviations,
    _ratios,
    _measured,
    _random,
    _magnitude,
    _published,
    _reproducible,
    _machine,
)


def _records(rows: Iterable[Row]) -> list[Record]:
    return [run.record for row in rows for run in row.runs]


def _timed(row: Row) -> bool:
    return any(statistic for name, statistic in row.statistics.items() if name.startswith("speedup_batch_"))


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _named(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    more = f" and {len(different) - NAMED} more" if len(different) > NAMED else ""
    return one_line(", ".join(different[:NAMED]) + more)
