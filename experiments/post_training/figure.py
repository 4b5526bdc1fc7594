"""Makes accuracy.png from the records of ``study.py`` and ``peer.py``: accuracy against kept FLOPs, right after pruning
and after two calibrations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from table import FOLDER, records

FILES: Mapping[str, tuple[str, ...]] = {
    "lite0": ("lite0", "aims_lite0"),  # obs and fisher were measured for the aims only
    "resnet56": ("resnet56",),
    "resnet20": ("resnet20",),
}
PANELS = {"cut": "as cut", "bn": "BN re-estimated", "sequential": "weights refitted"}
OWN = ("obs", "fisher")
"""Drawn with solid lines."""


def main() -> None:
    """Write the figure: a row for each network that has records, a column for each calibration."""
    found = {name: [record for file in files for record in records(file)] for name, files in FILES.items()}
    found = {name: rows for name, rows in found.items() if rows}
    methods = sorted({record["method"] for rows in found.values() for record in rows} - {"none"})
    colours = {method: plt.get_cmap("tab20")(number) for number, method in enumerate(methods)}
    figure, axes = plt.subplots(
        len(found), len(PANELS), figsize=(12, 3.4 * len(found)), sharey="row", squeeze=False
    )
    for (network, rows), row in zip(found.items(), axes, strict=True):
        full = 100 * next(record["top1"] for record in rows if record["column"] == "full")
        for (column, title), axis in zip(PANELS.items(), row, strict=True):
            draw(axis, [record for record in rows if record["column"] == column], colours)
            axis.axhline(full, color="grey", linewidth=0.8)
            axis.set(title=f"{network}, {title}", xlabel="kept FLOPs", ylim=(0, 100))
        row[0].set_ylabel("top-1 accuracy, %")
    lines = {
        line.get_label(): line for axis in axes.flat for line in axis.get_lines() if line.get_marker() == "."
    }
    figure.legend([lines[method] for method in methods], methods, loc="outside right upper", fontsize=8)
    figure.tight_layout(rect=(0, 0, 0.87, 1))
    figure.savefig(FOLDER / "accuracy.png", dpi=90)


def draw(axis: Axes, rows: Sequence[Mapping[str, Any]], colours: Mapping[str, Any]) -> None:
    """A line for each method with its own allocation; means over draws of calibration images."""
    curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for record in rows:
        if record["allocation"] is None and "top1" in record:
            curves[record["method"]][record["keep"]].append(100 * record["top1"])
    for method, points in sorted(curves.items()):
        keeps = sorted(points)
        line = [mean(points[keep]) for keep in keeps]
        axis.plot(
            keeps, line, "-" if method in OWN else "--", marker=".", color=colours[method], label=method
        )


if __name__ == "__main__":
    main()
