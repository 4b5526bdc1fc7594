"""Makes table.md from the records of ``study.py`` and ``kinds.py``.

Accuracies are in percent, means over seeds (least and greatest in brackets).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path(__file__).parent
COLUMNS = (
    "cut",
    "bn",
    "bias",
    "least_squares",
    "sequential",
    "blockwise",
    "distil",
    "distil_long",
    "distil_mixed",
)
TITLES = {
    "cut": "as cut",
    "least_squares": "least squares",
    "blockwise": "+ blockwise",
    "distil": "+ distil",
    "distil_long": "+ distil, 1,500 steps",
    "distil_mixed": "+ distil, 800 steps, mixed images",
}
AIMS = (
    ("aims_lite0", 0.9, 85.6),
    ("aims_lite0", 0.8, 84.0),
    ("aims_lite0", 0.7, 79.0),
    ("aims_resnet56", 0.5, 88.2),
    ("aims_resnet56", 0.3, 82.0),
    ("aims_resnet20", 0.5, 84.5),
)
"""File of records, fraction of the FLOPs, and the aim for the accuracy without training, set before the study."""

Values = Mapping[str, Sequence[float]]


def records(name: str) -> list[dict[str, Any]]:
    """The records of a file in records/; none if there is no such file."""
    path = FOLDER / "records" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def study_table(name: str) -> list[str]:
    """One table for each fraction of the FLOPs: a row for each method, a column for each calibration."""
    rows = records(name)
    full = next(record for record in rows if record["column"] == "full")
    found: dict[float, dict[str, dict[str, list[float]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for record in rows:
        if "top1" in record and record["column"] != "full":
            method = record["method"] + (f" ({record['allocation']})" if record["allocation"] else "")
            found[record["keep"]][method][record["column"]].append(100 * record["top1"])
    seeds = len({record["seed"] for record in rows if record["column"] != "full"})
    lines = [
        f"## {name}: {full['network']}, full network {100 * full['top1']:.1f} % on {full['evaluated']:,} images",
        "",
        f"At most {full['images']} calibration images, {seeds} draw{'s' * (seeds > 1)} of them.",
        "",
    ]
    for keep in sorted(found, reverse=True):
        lines += [*grid(f"{keep:g} of the FLOPs", sorted(found[keep].items())), ""]
    return lines + cost_lines(rows)


def aims_table() -> list[str]:
    """The results of ``obs`` and ``fisher`` after each calibration, with the aims."""
    rows = []
    for name, keep, aim in AIMS:
        for method in ("obs", "fisher"):
            found: dict[str, list[float]] = defaultdict(list)
            for record in records(name):
                if record["method"] == method and record["keep"] == keep:
                    found[record["column"]].append(100 * record["top1"])
            if found:
                rows.append((f"{name.removeprefix('aims_')}, {keep:g}; aim {aim:g}; {method}", found))
    return ["## Aims", "", *grid("network, kept FLOPs", rows), ""]


def grid(corner: str, rows: Iterable[tuple[str, Values]]) -> list[str]:
    """A table of means; empty columns are left out."""
    rows = list(rows)
    columns = [column for column in COLUMNS if any(column in row for _, row in rows)]
    lines = [f"| {corner} | {' | '.join(TITLES.get(column, column) for column in columns)} |"]
    lines += ["|---" * (len(columns) + 1) + "|"]
    for name, row in rows:
        lines.append(f"| {name} | {' | '.join(cell(row.get(column, ())) for column in columns)} |")
    return lines


def cell(values: Sequence[float]) -> str:
    """The mean, and the extremes of several."""
    if not values:
        return ""
    spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def cost_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Seconds of processor time of one thread, and memory, for obs."""
    own = [row for row in rows if row["method"] == "obs" and "seconds" in row and "device" not in row]
    if not own:
        return []
    parts = [f"scores {mean(row['score_s'] for row in own):.0f} s"]
    for column in COLUMNS[1:]:
        taken = [row["seconds"] for row in own if row["column"] == column]
        parts += [f"{TITLES.get(column, column)} {mean(taken):.0f} s"] if taken else []
    memory = max(row["memory_gb"] for row in own)
    return [
        f"`obs`, processor time of one thread (steps that lead to a column together): {', '.join(parts)}; at most "
        f"{memory:.1f} GB for everything, images included.",
        "",
    ]


def kinds_table() -> list[str]:
    """Networks of other kinds: Taylor, fisher and obs."""
    rows = records("kinds")
    if not rows:
        return []
    lines = ["## Networks of other kinds, digits, 360 test images", ""]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        full = [100 * row["top1"] for row in own if row["column"] == "full"]
        found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in own:
            if row["column"] != "full":
                found[f"{row['method']}, {row['keep']:g}"][row["column"]].append(100 * row["top1"])
        lines += [*grid(f"{network}, full {cell(full)}", found.items()), ""]
    return lines


def main() -> None:
    """Write table.md."""
    names = sorted(path.stem for path in (FOLDER / "records").glob("*.jsonl") if path.stem != "kinds")
    lines = aims_table() + [line for name in names for line in study_table(name)]
    (FOLDER / "table.md").write_text("\n".join([*lines, *kinds_table()]).rstrip() + "\n")


if __name__ == "__main__":
    main()
