"""Reads the folder of a study: finished, failed and unfinished runs, and unusable files."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from prunelab.errors import UserError
from prunelab.records.deployment import DEPLOYMENT_FILE, DEPLOYMENT_FOLDER, Deployment
from prunelab.records.evaluations import Evaluation, parse_evaluations
from prunelab.records.fields import RecordError
from prunelab.records.folder import (
    BASELINES,
    CONFIG_FILE,
    CURVES_FILE,
    FAILURE_FILE,
    RECORD_FILE,
    SEARCH_FILE,
)
from prunelab.records.schema import Failure, Record
from prunelab.report.curves import Epoch, parse_curves
from prunelab.report.unfinished import Intention, read_intention

Content = TypeVar("Content")

DEPLOYMENT = f"{DEPLOYMENT_FOLDER}/{DEPLOYMENT_FILE}"

COPIED_RECORDS = "records"
"""A study in a folder of this name, next to its report, has the name of the parent folder."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with a record. ``path`` is the file, relative to the folder of the study, here and below.

    ``curves`` is the content of curves.csv in the same folder, ``search`` that of search.csv, ``deployment`` that of
    deployment/deployment.json; None if the file does not exist or cannot be used.
    """

    record: Record
    path: Path
    curves: tuple[Epoch, ...] | None = None
    search: Mapping[str, tuple[Evaluation, ...]] | None = None
    deployment: Deployment | None = None


@dataclass(frozen=True)
class FailedRun:
    """A run that ended with an error."""

    failure: Failure
    path: Path


@dataclass(frozen=True)
class UnfinishedRun:
    """A run with neither a record nor a failure: it is running or was interrupted.

    ``intention`` is None if its configuration cannot be read.
    """

    path: Path
    intention: Intention | None


@dataclass(frozen=True)
class Problem:
    """A file, or a line of a file, that is not in the report, and the reason."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Study:
    """The content of the folder of one study, sorted by path."""

    name: str
    finished: tuple[FinishedRun, ...]
    failed: tuple[FailedRun, ...]
    unfinished: tuple[UnfinishedRun, ...]
    problems: tuple[Problem, ...]


def read_study(folder: Path) -> Study:
    """Read the run folders directly inside ``folder`` (``outputs/<study>/<run key>/``).

    A file that cannot be read becomes a ``Problem``. Raises ``UserError`` if the folder does not exist or contains no
    runs.
    """
    found = [part for run_folder in _run_folders(folder) for part in _read_run(run_folder)]
    path = folder.resolve()
    return Study(
        name=path.parent.name if path.name == COPIED_RECORDS else path.name,
        finished=tuple(run for run in found if isinstance(run, FinishedRun)),
        failed=tuple(run for run in found if isinstance(run, FailedRun)),
        unfinished=tuple(run for run in found if isinstance(run, UnfinishedRun)),
        problems=tuple(run for run in found if isinstance(run, Problem)),
    )


def _read_run(folder: Path) -> Iterator[FinishedRun | FailedRun | UnfinishedRun | Problem]:
    """The run in ``folder``, and the problems of its files."""
    path = Path(folder.name)
    try:
        if (folder / RECORD_FILE).exists():
            path = path / RECORD_FILE
            yield from _with_figures(FinishedRun(_load(folder / RECORD_FILE, Record.from_json), path), folder)
        elif (folder / FAILURE_FILE).exists():
            path = path / FAILURE_FILE
            yield FailedRun(_load(folder / FAILURE_FILE, Failure.from_json), path)
        else:
            yield UnfinishedRun(path, read_intention(folder / CONFIG_FILE))
    except RecordError as error:
        yield Problem(path, str(error))


def _with_figures(run: FinishedRun, folder: Path) -> Iterator[FinishedRun | Problem]:
    """The run with its curves, search and deployment; unusable files are problems, but the run counts."""
    problems = []
    readers: dict[str, tuple[str, Callable[[str], Any], str]] = {
        CURVES_FILE: ("curves", parse_curves, "curves are"),
        SEARCH_FILE: ("search", parse_evaluations, "search is"),
        DEPLOYMENT: ("deployment", Deployment.from_json, "exported stages are"),
    }
    for name, (attribute, parse, what) in readers.items():
        if not (folder / name).exists():
            continue
        try:
            run = replace(run, **{attribute: _load(folder / name, parse)})
        except RecordError as error:
            reason = f"the run is in the tables, but its {what} not shown: {error}"
            problems.append(Problem(Path(folder.name) / name, reason))
    yield run
    yield from problems


def _load(path: Path, parse: Callable[[str], Content]) -> Content:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise RecordError("not a text file") from error
    except OSError as error:
        raise RecordError(f"cannot be read ({error.strerror})") from error


def _run_folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserError(f"{folder} {what}. Give the folder of a study, such as outputs/demo.")
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir())
        runs = [path for path in inside if _is_run(path)]
        if not runs:
            raise UserError(_why_no_runs(folder, inside))
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.") from error
    return runs


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in (RECORD_FILE, FAILURE_FILE, CONFIG_FILE))


def _why_no_runs(folder: Path, inside: list[Path]) -> str:
    """The message for a folder without runs, with the folder that was probably meant."""
    if _is_run(folder):
        return f"{folder} is a single run. Give the folder of its study: {folder.resolve().parent}"
    studies = [path for path in inside if path.name != BASELINES and any(map(_is_run, path.iterdir()))]
    if studies:
        return f"{folder} contains studies, not runs. Give one of them: " + ", ".join(map(str, studies))
    return f"{folder} contains no runs. To start one: {_first_command(folder)}"


def _first_command(folder: Path) -> str:
    """A command that starts a run in the study ``folder``."""
    words = ["prunelab", f"study={folder.resolve().name}", "method=l1", "budget.flops=0.5"]
    if folder.resolve().parent != Path("outputs").resolve():
        words.append(f"outputs={folder.resolve().parent}")
    return shlex.join(words)
