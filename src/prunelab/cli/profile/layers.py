"""The profile of a network layer by layer, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from prunelab.cli.profile.parts import Latency, Profile


def layer_table(found: Profile) -> Table:
    """One line for each module with parameters or operations of its own, in the order of the forward pass.

    Columns: path and class of the module; kernel and stride; shape of its output for one image; parameters; MACs;
    its shares of parameters and FLOPs; with a latency its milliseconds and their share.
    """
    titles = ["module", "class", "kernel", "output", "params", "MACs", "params", "FLOPs"]
    titles += ["ms", "time"] if found.latency else []
    table = Table(*titles, box=None, pad_edge=False)
    for column in table.columns[4:]:
        column.justify = "right"
    table.columns[0].no_wrap = True
    for row in found.layers:
        runs = f" (called {row.runs} times)" if row.runs > 1 else " (never called)" if row.runs == 0 else ""
        table.add_row(
            Text(row.module or "(network)"),
            Text(row.kind + runs),
            _kernel(row.kernel, row.stride, row.groups),
            "x".join(map(str, row.output_shape[1:])),
            f"{row.params:,}",
            f"{row.macs:,}",
            f"{row.params / max(found.params, 1):.1%}",
            f"{row.flops / max(found.flops, 1):.1%}",
            *_times(row.module, found.latency),
        )
    return table


def _times(module: str, latency: Latency | None) -> list[str]:
    if latency is None:
        return []
    milliseconds = latency.modules.get(module)
    if milliseconds is None:  # it is timed with the layer before it
        return ["", ""]
    return [f"{milliseconds:.3f}", f"{milliseconds / latency.p50:.1%}"]


def _kernel(kernel: tuple[int, ...], stride: tuple[int, ...], groups: int) -> str:
    """ "3x3", "3x3 /2" (stride 2), "3x3 /2 g32" (32 groups)."""
    if not kernel:
        return ""
    steps = "" if set(stride) == {1} else f" /{'x'.join(map(str, dict.fromkeys(stride)))}"
    return "x".join(map(str, kernel)) + steps + (f" g{groups}" if groups > 1 else "")
