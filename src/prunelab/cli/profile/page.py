"""The picture of scores as an HTML page, with details at the mouse position; it works offline."""

from __future__ import annotations

import math
from pathlib import Path

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from prunelab.cli.profile.picture import CUT, FAINT, INK, KEPT, REMOVED, legend, shortened, subtitle
from prunelab.cli.profile.scores import GroupScores, ScoredNetwork

COLUMNS, ROW, HEAD, NARROWEST = 4, 170, 110, 900
"""Groups per row; pixels of a row of groups, of the heading, and of the least width (a narrower window scrolls)."""


def save_page(network: ScoredNetwork, file: Path) -> None:
    """Write a page with one panel for each group, in the order of the network."""
    groups = network.groups
    columns = min(COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    height = rows * ROW + HEAD
    figure = make_subplots(
        rows=rows,
        cols=columns,
        subplot_titles=[_title(group) for group in groups],
        vertical_spacing=min(62 / height, 1 / max(rows - 1, 1) * 0.9),
        horizontal_spacing=0.045,
    )
    for number, group in enumerate(groups):
        _panel(figure, group, row=number // columns + 1, column=number % columns + 1, listed=number == 0)
    figure.update_annotations(font={"size": 12, "color": INK})
    figure.update_xaxes(showgrid=False, tickfont={"size": 9, "color": FAINT})
    figure.update_yaxes(
        gridcolor="#eef0f3", nticks=3, tickfont={"size": 9, "color": FAINT}, rangemode="tozero"
    )
    figure.update_layout(
        title={
            "text": f"<b>{network.title}</b><br><sub>{subtitle(network)} · {legend(network)}</sub>",
            "x": 0.02,
            "y": 1 - 34 / height,
            "font": {"size": 20, "color": INK},
        },
        height=height,
        margin={"l": 50, "r": 20, "t": HEAD, "b": 30},
        template="plotly_white",
        bargap=0,
        barmode="overlay",
        legend={
            "orientation": "h",
            "x": 1,
            "xanchor": "right",
            "y": 1 + 62 / (rows * ROW),
            "yanchor": "bottom",
        },
        font={"family": "system-ui, sans-serif"},
    )
    figure.write_html(
        file,
        include_plotlyjs=True,
        full_html=True,
        config={"displaylogo": False},
        default_width=f"max(100%, {NARROWEST}px)",
    )


def _panel(figure: go.Figure, group: GroupScores, row: int, column: int, listed: bool) -> None:
    for chosen, color, word in ((group.kept, KEPT, "is kept"), (~group.kept, REMOVED, "is removed")):
        places = chosen.nonzero()[0]
        figure.add_trace(
            go.Bar(
                x=places + 0.5,
                y=group.scores[places],
                width=1,
                customdata=group.channels[places],
                marker={"color": color, "line": {"width": 0}},
                name=word,
                legendgroup=word,
                showlegend=listed,
                hovertemplate=f"{group.name}<br>channel %{{customdata}} {word}<br>score %{{y:.4g}}<extra></extra>",
            ),
            row=row,
            col=column,
        )
    if group.kept[: group.left].all() and group.left < len(group.scores):  # all channels are cut at one place
        figure.add_vline(x=group.left, line={"color": CUT, "width": 1.5}, row=row, col=column)


def _title(group: GroupScores) -> str:
    name = shortened(group.name, 30)
    name = f"<b>{name}</b>" if group.level == "stage" else name
    return f"{name}  <span style='color:{FAINT}'>{group.left} of {len(group.scores)}</span>"
