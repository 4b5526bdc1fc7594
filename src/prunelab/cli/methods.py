"""``prunelab-methods``: lists all pruning methods, with the descriptions in their classes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prunelab.cli.config import conf_folder, configure_part
from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.errors import UserError

if TYPE_CHECKING:
    from prunelab.methods.about import About, Origin

PROGRAM = "prunelab-methods"
WIDE = 140
"""Minimum characters in a line for the table with six columns."""

COLUMNS = ("Method", "Paper", "Reads", "Levels", "Cost before pruning", "Faithful to")
BEGIN, END = (
    "<!-- methods: prunelab-methods --write docs/reference/methods.md -->\n",
    "<!-- end of methods -->",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = _parser().parse_args(
        take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    )
    return exit_code(PROGRAM, lambda: _show(options.markdown, options.write))


def methods() -> dict[str, About]:
    """The description of each method in conf/method, by name, in alphabetical order."""
    return {name: _about(name) for name in sorted(_names())}


def markdown(found: dict[str, About]) -> str:
    """The table in Markdown."""
    rows = [
        [
            f"`{name}`",
            _paper(about.origin),
            about.reads,
            ", ".join(about.levels),
            about.cost,
            _held(about.origin),
        ]
        for name, about in found.items()
    ]
    lines = [COLUMNS, [":--"] * len(COLUMNS), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written_into(text: str, found: dict[str, About]) -> str:
    """``text`` with the current table between its two markers.

    Raises:
        UserError: a marker is missing.
    """
    before, mark, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not mark or not end:
        raise UserError(f"The file must contain the lines {BEGIN.strip()!r} and {END!r} around the table.")
    return f"{before}{BEGIN}{markdown(found)}{END}{after}"


def _names() -> Iterator[str]:
    for entry in (conf_folder() / "method").iterdir():
        if entry.name.endswith(".yaml"):
            yield entry.name.removesuffix(".yaml")


def _about(name: str) -> About:
    from hydra.utils import instantiate

    settings = configure_part("method", [f"method={name}", "budget.flops=0.5"])
    about: About = instantiate({key: value for key, value in settings.items() if key != "module"}).about
    return about


def _paper(origin: Origin) -> str:
    return f"[{origin.paper}]({origin.url})" if origin.url else origin.paper


def _held(origin: Origin) -> str:
    """The sources with which the implementation was compared."""
    if not origin.paper:
        return ""
    code = f", [code](https://github.com/{origin.code})" if origin.code else ""
    return f"paper{code}" + (f"; ours: {origin.ours}" if origin.ours else "")


def _show(as_markdown: bool, file: Path | None) -> int:
    found = methods()
    if file is not None:
        file.write_text(written_into(file.read_text(), found))
    elif as_markdown:
        print(markdown(found), end="")
    else:
        console = Console(highlight=False)
        console.print(_screen(found) if console.width >= WIDE else _narrow_screen(found))
    return 0


def _narrow_screen(found: dict[str, About]) -> Table:
    """Two or three lines for each method, for terminals that are too narrow for six columns."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="bold")
    for name, about in found.items():
        facts = f"reads {about.reads}; removes {', '.join(about.levels)}; before pruning: {about.cost}"
        table.add_row(
            name, Text("\n").join(filter(None, [Text(about.origin.paper), Text(facts, style="dim")]))
        )
    return table


def _screen(found: dict[str, About]) -> Table:
    table = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True
    for name, about in found.items():
        held = "paper, code" if about.origin.code else "paper" if about.origin.paper else ""
        table.add_row(name, about.origin.paper, about.reads, ", ".join(about.levels), about.cost, held)
    return table


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="List all pruning methods: the paper, what the method reads, what it can remove, its cost before "
        "pruning, and the sources with which the implementation was compared. Choose one with prunelab method=NAME.",
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--markdown", action="store_true", help="print the table in Markdown, with links")
    shape.add_argument(
        "--write", type=Path, metavar="FILE", help="write this table between the two markers in a file"
    )
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
