"""The profile of a network as a tree: its modules by name, with the removable parts of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from prunelab.cli.profile.parts import Frozen, Part, Profile

TRUNK, TEE, ELBOW, GAP = "│  ", "├─ ", "└─ ", "   "


@dataclass
class _Node:
    """A module path and its entries."""

    groups: list[Part] = field(default_factory=list)
    block: Part | None = None
    frozen: list[Frozen] = field(default_factory=list)
    children: dict[str, _Node] = field(default_factory=dict)

    @property
    def has_something(self) -> bool:
        """Whether this module itself has an entry."""
        return bool(self.groups or self.block or self.frozen)

    def at(self, path: str) -> _Node:
        """The node of a module below this one; missing nodes are created."""
        node = self
        for name in path.partition("#")[0].split("."):
            node = node.children.setdefault(name, _Node())
        return node


def tree(found: Profile) -> Table:
    """One line for each stage, block and layer that is removable or frozen.

    Columns: module; channels; level; shares of FLOPs and parameters that are removed with it; remarks.
    """
    root = _Node()
    for group in found.groups:
        root.at(group.name).groups.append(group)
    for block in found.blocks:
        root.at(block.name).block = block
    for unmoved in found.frozen:
        root.at(unmoved.name).frozen.append(unmoved)
    table = Table(
        "where", "channels", "level", "FLOPs", "params", "", box=None, pad_edge=False, header_style="bold"
    )
    for column in (1, 3, 4):
        table.columns[column].justify = "right"
    table.columns[0].no_wrap = True
    _add(table, list(root.children.items()), "")
    return table


def _add(table: Table, children: Sequence[tuple[str, _Node]], before: str) -> None:
    for number, (name, node) in enumerate(children):
        while len(node.children) == 1 and not node.has_something:
            (below, node), *_ = node.children.items()
            name = f"{name}.{below}"
        last = number == len(children) - 1
        rows = _rows(node)
        for first, cells in enumerate(rows or [("", "", "", "", Text())]):
            label = name if first == 0 else ""
            table.add_row(
                Text(before + ((ELBOW if last else TEE) if first == 0 else (GAP if last else TRUNK)) + label),
                *cells,
            )
        _add(table, list(node.children.items()), before + (GAP if last else TRUNK))


def _rows(node: _Node) -> list[tuple[str, str, str, str, Text]]:
    """The cells (channels, level, FLOPs, params, remark) of everything at a node."""
    rows = []
    if node.block is not None:
        rows.append(("", "block", *_shares(node.block), Text("can be dropped", style="green")))
    for group in node.groups:
        remark = Text() if group.exact else Text("inexact: normalised over channels", style="yellow")
        rows.append((str(group.channels), group.level, *_shares(group), remark))
    rows.extend(
        (str(group.channels), "frozen", "", "", Text(group.reason, style="red")) for group in node.frozen
    )
    return rows


def _shares(part: Part) -> tuple[str, str]:
    return f"{part.flops_share:.1%}", f"{part.params_share:.1%}"
