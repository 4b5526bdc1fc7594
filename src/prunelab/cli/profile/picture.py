"""The picture of scores as a PNG: for each group its channels, best first, and the cut by the budget."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from prunelab.cli.profile.scores import GroupScores, ScoredNetwork

KEPT, REMOVED, CUT, INK, FAINT = "#1f6f8b", "#e8a87c", "#b23a48", "#222831", "#8a8f98"
PANEL, HEAD, COLUMNS = (1.95, 1.35), 0.95, 8
"""Inches of one group and of the heading; groups side by side."""


def save_picture(network: ScoredNetwork, file: Path) -> None:
    """Draw all groups as small panels, in the order of the network, and write the PNG."""
    groups = network.groups
    columns = min(COLUMNS, max(3, math.ceil(math.sqrt(len(groups) * 1.3))))
    rows = math.ceil(len(groups) / columns)
    figure = Figure(figsize=(columns * PANEL[0], rows * PANEL[1] + HEAD), facecolor="white")
    FigureCanvasAgg(figure)
    height = rows * PANEL[1] + HEAD
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.42 / (columns * PANEL[0]),
        right=1 - 0.12 / (columns * PANEL[0]),
        bottom=0.22 / height,
        top=1 - (HEAD + 0.22) / height,
        hspace=0.62,
        wspace=0.3,
    )
    for number, group in enumerate(groups):
        _panel(figure.add_subplot(grid[divmod(number, columns)]), group)
    _heading(figure, network, height)
    figure.savefig(file, dpi=150)


def _panel(axes: Axes, group: GroupScores) -> None:
    places = np.arange(len(group.scores) + 1)
    for chosen, color in ((group.kept, KEPT), (~group.kept, REMOVED)):
        heights = np.where(chosen, group.scores, 0.0)
        axes.fill_between(places, np.append(heights, heights[-1]), step="post", color=color, linewidth=0)
    if group.kept[: group.left].all() and group.left < len(group.scores):  # all channels are cut at one place
        axes.axvline(group.left, color=CUT, linewidth=1.1)
    low, high = min(0.0, float(group.scores.min())), max(0.0, float(group.scores.max()))
    axes.set(xlim=(0, len(group.scores)), ylim=(low, (high or 1.0) * 1.06))
    axes.set_xticks([0, len(group.scores)])
    axes.set_yticks([0, high] if high > 0 else [0])
    axes.set_yticklabels(["0", f"{high:.2g}"] if high > 0 else ["0"])
    axes.tick_params(labelsize=6, length=2, colors=FAINT, pad=1.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#d0d3d8")
    weight = "bold" if group.level == "stage" else "normal"
    axes.set_title(shortened(group.name, 22), fontsize=7, loc="left", color=INK, pad=10, fontweight=weight)
    axes.text(
        0,
        1.03,
        f"{group.left} of {len(group.scores)} kept",
        transform=axes.transAxes,
        fontsize=6,
        color=FAINT,
    )


def _heading(figure: Figure, network: ScoredNetwork, height: float) -> None:
    left = 0.42 / figure.get_figwidth()
    figure.text(
        left, 1 - 0.28 / height, network.title, fontsize=13, color=INK, fontweight="bold", va="center"
    )
    figure.text(left, 1 - 0.52 / height, subtitle(network), fontsize=7.5, color=FAINT, va="center")
    figure.text(
        left + 1.75 / figure.get_figwidth(),
        1 - 0.78 / height,
        legend(network),
        fontsize=7.5,
        color=FAINT,
        va="center",
    )
    figure.legend(
        handles=[Patch(color=KEPT, label="kept"), Patch(color=REMOVED, label="removed")],
        loc="center left",
        bbox_to_anchor=(left - 0.004, 1 - 0.78 / height),
        ncols=2,
        fontsize=7.5,
        frameon=False,
        borderpad=0,
        handlelength=1.2,
    )


def subtitle(network: ScoredNetwork) -> str:
    """The budget and the origin of the weights."""
    return f"{network.budget} · {network.weights}"


def legend(network: ScoredNetwork) -> str:
    """An explanation of the panels."""
    scale = "unscaled" if network.normalisation == "none" else f"divided by their {network.normalisation}"
    return f"each panel a group (bold: a stage), channels sorted by score ({scale})"


def shortened(name: str, longest: int) -> str:
    """``name``, without its middle if it has more than ``longest`` characters."""
    head = longest // 2 - 1
    return name if len(name) <= longest else f"{name[:head]}…{name[head + 1 - longest :]}"
