"""``prunelab-migrate``: rename runs of earlier versions to the keys of this version."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from prunelab.cli.ending import FAILED, TRACEBACK_FLAG, exit_code, take_traceback_flag
from prunelab.errors import UserError
from prunelab.records.contents import BY_CONTENT
from prunelab.records.migration import migrate

PROGRAM = "prunelab-migrate"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    words = take_traceback_flag(list(sys.argv[1:] if arguments is None else arguments))
    options = _parser().parse_args(words)
    return exit_code(PROGRAM, lambda: _migrate(options))


def _migrate(options: argparse.Namespace) -> int:
    places = dict(_place(word) for word in options.places)
    if missing := [folder for folder in options.folders if not folder.is_dir()]:
        raise UserError(f"{missing[0]} is not a folder. Give a folder of runs, such as outputs.")
    changed = left = 0
    for folder in options.folders:
        for run in migrate(folder, places, options.dry_run):
            changed += run.changed
            left += not run.changed
            print(f"{run.before}  ->  {run.now.name}" if run.changed else f"{run.before}  left: {run.left}")
    print(f"{changed} {'would be migrated' if options.dry_run else 'migrated'}, {left} left unchanged.")
    return FAILED if left else 0


def _place(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals or key not in BY_CONTENT:
        known = " or ".join(f"{name}=..." for name in BY_CONTENT)
        raise UserError(f"--at {word}: write {known}.")
    return key, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Rename runs of earlier versions of prunelab to the keys of this version: the run "
        "folders are renamed, and their records and configurations rewritten with the present names of settings and "
        "classes. Finished runs stay finished, unfinished ones can be continued. Figures are not changed.",
        epilog="The same command again continues a migration that was interrupted, and does nothing to runs that have "
        "their present keys. Images, weights and modules of a run are assumed to be unchanged.",
    )
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="a run, a study, or a folder of studies (outputs)",
    )
    parser.add_argument(
        "--at",
        dest="places",
        action="append",
        default=[],
        metavar="KEY=PATH",
        help="present paths of files that the runs name: data.root=FOLDER, baseline.path=FILE",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the changes without making them")
    parser.add_argument(TRACEBACK_FLAG, action="store_true", help="show the traceback of an error")
    return parser
