"""Makes table.md from the records of ``study.py``: accuracies in percent, means over seeds (spread in brackets)."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import mean

FOLDER = Path(__file__).parent
COLUMNS = ("cut", "bn", "bias", "least_squares", "sequential", "blockwise", "distil")
TITLES = {"cut": "as cut", "least_squares": "least squares", "blockwise": "+ blockwise", "distil": "+ distil"}


def table(path: Path) -> str:
    """One table for each fraction of the FLOPs."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    full = next(record for record in records if record["column"] == "full")
    found: dict[tuple[float, str], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if "top1" in record and record["column"] != "full":
            name = record["method"] + (f" ({record['allocation']})" if record["allocation"] else "")
            found[record["keep"], name][record["column"]].append(100 * record["top1"])
    lines = [
        f"## {full['network']}: full network {100 * full['top1']:.1f} % on {full['evaluated']:,} images",
        "",
    ]
    columns = [column for column in COLUMNS if any(column in row for row in found.values())]
    for keep in sorted({keep for keep, _ in found}, reverse=True):
        lines += [
            f"| {keep:g} of the FLOPs | {' | '.join(TITLES.get(column, column) for column in columns)} |"
        ]
        lines += ["|---" * (len(columns) + 1) + "|"]
        for (own, name), row in sorted(found.items(), key=lambda each: each[0][1]):
            if own == keep:
                lines.append(f"| {name} | {' | '.join(_cell(row.get(column, [])) for column in columns)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


if __name__ == "__main__":
    tables = [table(path) for path in sorted((FOLDER / "records").glob("*.jsonl"))]
    (FOLDER / "table.md").write_text("\n".join(tables) + "\n")
