"""The section on networks of README.md, from the lines of records/networks.jsonl."""

from __future__ import annotations

from collections import Counter, defaultdict
from statistics import median
from typing import Any

Row = dict[str, Any]
HEADINGS = (
    "package", "networks", "right", "median parameters kept", "median analysis, s", "torch-pruning: right shapes",
    "raises", "other shapes or no forward pass", "no answer", "both: parameters kept, prunelab / torch-pruning",
)  # fmt: skip


def section(rows: list[Row]) -> str:
    """The tables: packages, networks that are not right, networks that keep the most, frozen reasons."""
    parts = [_packages(rows), _not_right(rows), _slowest(rows), _most_kept(rows), _reasons(rows)]
    return "\n" + "\n".join(part for part in parts if part) + "\n"


def _packages(rows: list[Row]) -> str:
    of: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        of[row["package"]].append(row)
    lines = [_line(HEADINGS), _line(["---"] + ["--:"] * (len(HEADINGS) - 1))]
    lines += [_line(_summary(name, found)) for name, found in of.items()]
    lines.append(_line(_summary("all", rows)))
    return "\n".join(lines) + "\n"


def _summary(name: str, rows: list[Row]) -> list[str]:
    ran = [row for row in rows if "params_kept" in row]
    results = Counter(_torch_pruning(row) for row in rows)
    both = [row for row in ran if _torch_pruning(row) == "right"]
    kept = (
        f"{median(row['params_kept'] for row in both):.2f} / "
        f"{median(row['torch_pruning']['params_kept'] for row in both):.2f}"
        if both
        else ""
    )
    return [
        name,
        str(len(rows)),
        str(sum(row["verdict"] == "right" for row in rows)),
        f"{median(row['params_kept'] for row in ran):.2f}" if ran else "",
        f"{median(row['analyze_processor_seconds'] for row in ran):.2f}" if ran else "",
        *(str(results[kind]) for kind in ("right", "raises", "breaks", "no answer")),
        kept,
    ]


def _torch_pruning(network: Row) -> str:
    """What became of the network with torch-pruning ("" if it has not been measured)."""
    if "torch_pruning" not in network:
        return ""
    row = network["torch_pruning"]
    if row.get("forward") in ("ok", "not finite, as the full network"):
        return "right"
    if str(row.get("error", "")).startswith("ended by"):
        return "no answer"
    return "breaks" if row["step"] != "prune" else "raises"


def _not_right(rows: list[Row]) -> str:
    wrong = [row for row in rows if row["verdict"] != "right"]
    if not wrong:
        return ""
    lines = ["Not right:", "", _line(["package", "network", "what"]), _line(["---"] * 3)]
    lines += [_line([row["package"], row["network"], _cell(row["verdict"])]) for row in wrong]
    return "\n".join(lines) + "\n"


def _slowest(rows: list[Row]) -> str:
    slow = sorted(
        (row for row in rows if row.get("analyze_processor_seconds", 0) > 3),
        key=lambda row: -row["analyze_processor_seconds"],
    )
    named = ", ".join(f"{row['network']} {row['analyze_processor_seconds']:.1f}" for row in slow)
    return f"Analyses above 3 s of processor time: {named or 'none'}.\n"


def _most_kept(rows: list[Row]) -> str:
    most = sorted(
        (row for row in rows if row.get("params_kept", 0) > 0.75), key=lambda row: -row["params_kept"]
    )
    if not most:
        return ""
    lines = [
        "More than three quarters of the parameters are kept in:", "",
        _line(["package", "network", "kept", "torch-pruning", "frozen by (number of groups)"]),
        _line(["---", "---", "--:", "--:", "---"]),
    ]  # fmt: skip
    for row in most:
        theirs = _torch_pruning(row)
        if theirs == "right":
            theirs = f"{row['torch_pruning']['params_kept']:.2f}"
        frozen = sorted(row["frozen"].items(), key=lambda item: -item[1])[:2]
        named = "; ".join(f"{_cell(reason)[:160]} ({count})" for reason, count in frozen)
        lines.append(_line([row["package"], row["network"], f"{row['params_kept']:.2f}", theirs, named]))
    return "\n".join(lines) + "\n"


def _reasons(rows: list[Row]) -> str:
    """How many networks have a group that is frozen by each kind of reason."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts.update({_kind(reason) for reason in row.get("frozen", {})})
    lines = ["Reasons of frozen groups:", "", _line(["reason", "networks"]), _line(["---", "--:"])]
    lines += [_line([_cell(kind), str(count)]) for kind, count in counts.most_common(15)]
    return "\n".join(lines) + "\n"


def _kind(reason: str) -> str:
    """``reason`` without the name of the module (after the last " in ")."""
    return reason.rpartition(" (in ")[0] or reason


def _line(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
