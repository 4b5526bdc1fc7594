"""Where a run tells what happens in it: the choices of conf/logger."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prunelab.records import Record
from prunelab.records.folder import CURVES_FILE
from prunelab.tracking.curves import CurvesFile, EpochRow


class RunLogger:
    """Tells nobody (logger=none); the base of the others.

    A run calls ``start`` once, ``epoch`` after each epoch of its trainings, and ``finish`` with its record,
    or only ``close`` if it fails. With several processes only the first one calls.
    """

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        """The run with this resolved configuration starts, or goes on, and keeps its files in ``folder``."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch of training has ended."""

    def finish(self, record: Record) -> None:
        """The run has all its figures."""

    def close(self) -> None:
        """The run is over, one way or another."""


class CsvLogger(RunLogger):
    """Keeps the curves in curves.csv of the run's folder (logger=csv)."""

    def start(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._file = CurvesFile(folder / CURVES_FILE)

    def epoch(self, row: EpochRow) -> None:
        self._file.write(row)
