"""A structure in a few words, and as a table for notebooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import Protocol

import numpy as np

from prunelab.structure.blocks import ResidualBlock
from prunelab.structure.cost import CostModel
from prunelab.structure.groups import ChannelGroup


class Structure(Protocol):
    """The parts of a ``ChannelGraph`` that are shown."""

    @property
    def groups(self) -> tuple[ChannelGroup, ...]: ...
    @property
    def frozen(self) -> tuple[ChannelGroup, ...]: ...
    @property
    def blocks(self) -> tuple[ResidualBlock, ...]: ...
    @property
    def cost(self) -> CostModel: ...


_STYLE = "text-align:left;vertical-align:top;padding:2px 10px"


def short(graph: Structure) -> str:
    """One line: the numbers of removable parts, and the costs of the network."""
    levels = Counter(group.level for group in graph.groups)
    kinds = ", ".join(f"{count} {level}" for level, count in levels.items())
    counted = [
        _counted(len(graph.groups), "channel group") + (f" ({kinds})" if kinds else ""),
        _counted(len(graph.blocks), "block"),
        _counted(len(graph.frozen), "frozen group"),
        f"{_scaled(graph.cost.flops())}FLOPs",
        f"{_scaled(graph.cost.params()).rstrip()} parameters",
    ]
    return f"ChannelGraph: {', '.join(counted)}"


def html(graph: Structure) -> str:
    """The groups with the share of FLOPs and parameters of all their channels, blocks, and frozen groups."""
    rows = [
        (group.name, group.level, str(group.size), *share, "" if group.exact else f"inexact: {group.inexact}")
        for group, share in zip(graph.groups, _shares_of_groups(graph), strict=True)
    ]
    rows += [
        (block.name, "block", "", *share, f"leaves {block.leaves}")
        for block, share in zip(graph.blocks, _shares_of_blocks(graph), strict=True)
    ]
    frozen = [(group.name, str(group.size), group.frozen or "") for group in graph.frozen]
    parts = [f"<p>{escape(short(graph))}</p>"]
    if rows:
        parts.append(_table(("group", "level", "channels", "FLOPs", "parameters", "remark"), rows))
    if frozen:
        table = _table(("frozen group", "channels", "reason"), frozen)
        parts.append(f"<details><summary>{_counted(len(frozen), 'frozen group')}</summary>{table}</details>")
    return "".join(parts)


def _shares_of_groups(graph: Structure) -> list[tuple[str, str]]:
    widths = np.tile(graph.cost.full, (len(graph.groups), 1))
    np.fill_diagonal(widths, 0)
    return _shares(graph, widths, np.ones((len(graph.groups), len(graph.blocks))))


def _shares_of_blocks(graph: Structure) -> list[tuple[str, str]]:
    count = len(graph.blocks)
    return _shares(graph, np.tile(graph.cost.full, (count, 1)), 1 - np.eye(count))


def _shares(graph: Structure, widths: np.ndarray, alive: np.ndarray) -> list[tuple[str, str]]:
    """For each row the shares of FLOPs and parameters that are removed with these widths and blocks."""
    if not len(widths):
        return []
    flops = 1 - graph.cost.flops(widths, alive) / max(graph.cost.flops(), 1)
    params = 1 - graph.cost.params(widths, alive) / max(graph.cost.params(), 1)
    return [(f"{one:.1%}", f"{other:.1%}") for one, other in zip(flops, params, strict=True)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f'<{tag} style="{_STYLE}">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _scaled(count: int) -> str:
    """Three digits and a prefix: "81.6 M"."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {prefix}"
    return f"{count} "
