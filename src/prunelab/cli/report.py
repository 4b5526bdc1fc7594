"""``prunelab-report``: compares the runs of a study, from their records."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from prunelab.cli.ending import TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.errors import UserError
from prunelab.records.atomic import write_atomically
from prunelab.report import (
    Report,
    aggregate,
    find_published,
    print_report,
    read_published,
    read_study,
    to_csv,
    to_latex,
    to_markdown,
    to_page,
)
from prunelab.report.wandb_report import publish

WIDTH_OF_LOGS = 160
"""Characters in a line if the output is not a terminal (a pipe, a log), which has no width."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_args(words)
    return exit_code("prunelab-report", lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    study = options.study
    published = options.published or find_published(study)
    report = aggregate(read_study(study), read_published(published) if published else None)
    written = _write(_contents(report, study), options.out or study)
    console = _console(options.width)
    print_report(report, console)
    for path in written:
        console.print(Text(f"Wrote {path}"), soft_wrap=True)
    if options.wandb:
        console.print(Text(f"Saved {publish(report, options.wandb)}"), soft_wrap=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prunelab-report",
        description="Compare the runs of a study: print a table with one row per method and budget, with mean and "
        "standard deviation over seeds, and write it as table.md, table.csv and table.tex, and with figures as "
        "page.html, which opens in any browser without a network connection.",
        epilog="Only the records (record.json of every run) and learning curves are read, so a report can be made on "
        "another machine. Failed and unfinished runs and unusable records are listed.",
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="folder of a study, such as outputs/demo")
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="write the files here (default: into STUDY)"
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE",
        help="CSV file with published points for comparison (default: published.csv in STUDY, if it exists)",
    )
    parser.add_argument(
        "--wandb",
        metavar="ENTITY/PROJECT",
        help="also save a report with the same panels in this W&B project, from the runs that were logged there",
    )
    parser.add_argument(
        "--width",
        type=_positive,
        metavar="N",
        help="characters in a line (default: the width of the terminal)",
    )
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {text}")
    return int(text)


def _console(width: int | None) -> Console:
    console = Console(width=width, highlight=False)
    if width is None and not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=WIDTH_OF_LOGS, highlight=False)
    return console


def _contents(report: Report, study: Path) -> dict[str, str]:
    """The name and the content of each file."""
    return {
        "table.md": to_markdown(report),
        "table.csv": to_csv(report),
        "table.tex": to_latex(report),
        "page.html": to_page(report, str(study)),
    }


def _write(contents: Mapping[str, str], folder: Path) -> list[Path]:
    """Write the files into ``folder`` and return their paths."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_atomically(folder / name, content)
    except OSError as error:
        raise UserError(
            f"The report cannot be written into {folder}: {error.strerror}. Choose another folder with --out."
        ) from error
    return [folder / name for name in contents]


if __name__ == "__main__":
    main()
