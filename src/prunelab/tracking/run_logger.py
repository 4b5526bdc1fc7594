"""Where the figures of a run are logged: the choices of conf/logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.records import Record
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.folder import CURVES_FILE
from prunelab.tracking.curves import CurvesFile, EpochRow, Row


class RunLogger:
    """Logs nothing (logger=none); the base class of the others.

    A run calls ``start`` once, ``epoch`` after each epoch of its trainings, ``restore`` when it resumes a training, and
    ``finish`` with its record; ``close`` is called at the end in any case. Only rank zero calls.
    """

    def start(self, folder: Path, config: Mapping[str, Any], write: Write = write_atomically) -> None:
        """The run with this resolved configuration starts or is resumed; ``write`` writes files in its ``folder``."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch of training has ended."""

    def restore(self, phase: str, rows: list[Row]) -> None:
        """A training is resumed after the epochs of these rows."""

    def finish(self, record: Record) -> None:
        """The run has all its figures."""

    def close(self) -> None:
        """The run has ended, with or without success."""


class CsvLogger(RunLogger):
    """Writes the learning curves into curves.csv in the folder of the run (logger=csv)."""

    def start(self, folder: Path, config: Mapping[str, Any], write: Write = write_atomically) -> None:
        self._file = CurvesFile(folder / CURVES_FILE, write)

    def epoch(self, row: EpochRow) -> None:
        self._file.write(row)

    def restore(self, phase: str, rows: list[Row]) -> None:
        self._file.restore(phase, rows)
