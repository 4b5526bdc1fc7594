"""Makes accuracy.png from the records of ``study.py``: accuracy against kept FLOPs, right after pruning and after
``sequential``."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean

import matplotlib.pyplot as plt
from table import FOLDER, records

NETWORKS = ("lite0", "resnet56", "resnet20")
PANELS = {"cut": "as cut", "bn": "BN re-estimated", "sequential": "weights refitted"}


def main() -> None:
    """Write the figure: a row for each network that has records, a column for each calibration."""
    networks = [name for name in NETWORKS if records(name)]
    figure, axes = plt.subplots(
        len(networks), len(PANELS), figsize=(11, 3.4 * len(networks)), sharey="row", squeeze=False
    )
    for network, row in zip(networks, axes, strict=True):
        found = records(network)
        methods = sorted({record["method"] for record in found} - {"none"})
        full = 100 * next(record["top1"] for record in found if record["column"] == "full")
        for (column, title), axis in zip(PANELS.items(), row, strict=True):
            curves: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
            for record in found:
                if record["column"] == column and record["allocation"] is None and "top1" in record:
                    curves[record["method"]][record["keep"]].append(100 * record["top1"])
            for number, method in enumerate(methods):  # the same colour and style in every panel
                points = curves[method]
                keeps = sorted(points)
                style = "-" if method in ("obs", "fisher") else ("--", ":")[number % 2]
                line = [mean(points[keep]) for keep in keeps]
                axis.plot(keeps, line, style, marker=".", color=f"C{number}", label=method)
            axis.axhline(full, color="grey", linewidth=0.8)
            axis.set(title=f"{network}, {title}", xlabel="kept FLOPs", ylim=(0, 100))
        row[0].set_ylabel("top-1 accuracy, %")
        row[-1].legend(fontsize=7, loc="lower right", ncols=2)
    figure.tight_layout()
    figure.savefig(FOLDER / "accuracy.png", dpi=90)


if __name__ == "__main__":
    main()
