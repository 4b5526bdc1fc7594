"""Loggers for the figures of a run: the choices of conf/logger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prunelab.records import Accuracy, Record
from prunelab.records.atomic import Write, write_atomically
from prunelab.records.deployment import Stage
from prunelab.records.evaluations import Evaluation
from prunelab.records.folder import CURVES_FILE, SEARCH_FILE
from prunelab.report.measures import MEASURES
from prunelab.tracking.curves import CurvesFile, EpochRow, Row
from prunelab.tracking.jobs import BASELINE, RESULT, Job, JobPlace, NoJob, figures_of, job_type
from prunelab.tracking.search_file import SearchFile


class RunLogger:
    """Logs nothing (logger=none); the base class of the others.

    A run calls ``start`` once, ``epoch`` after each epoch of its trainings, ``restore`` when it resumes a training,
    ``evaluations`` during a search, and ``finish`` with its record; ``close`` is called at the end in any case. The run
    that trains the baseline calls ``baseline_epoch`` and ``baseline_finished`` as well. ``deployed`` is independent of
    these. Only rank zero makes the calls.

    A subclass for a tracker overrides ``begin``, ``start_job`` and ``end``.
    """

    writes_curves = False
    """Whether learning curves are written into curves.csv, and evaluations of a search into search.csv."""

    def begin(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Prepare the tracker for a run. Raises UserError if it cannot be used."""

    def start_job(self, place: JobPlace) -> Job:
        """Start a job in the tracker, or continue the one with the same identity."""
        return NoJob()

    def end(self) -> None:
        """Called when all jobs of the run have been closed."""

    def start(
        self,
        folder: Path,
        config: Mapping[str, Any],
        write: Write = write_atomically,
        baseline_key: str = "",
    ) -> None:
        """Called when the run with this resolved configuration starts or is resumed; ``write`` writes in its
        ``folder``."""
        self._folder, self._config, self._baseline_key = folder, config, baseline_key
        self._curves = CurvesFile(folder / CURVES_FILE, write) if self.writes_curves else None
        self._search = SearchFile(folder / SEARCH_FILE, write) if self.writes_curves else None
        self._jobs: dict[str, Job] = {}
        self._finished = False
        self.begin(folder, config)

    def baseline_epoch(self, row: EpochRow) -> None:
        """Called after an epoch of the training of the baseline."""
        self._job(BASELINE).log(figures_of(row), row.epoch)

    def baseline_finished(self, accuracy: Accuracy) -> None:
        """Called when the baseline is trained; ``accuracy`` is that on the test images."""
        if job := self._jobs.pop(BASELINE, None):  # there is none if it was read from a file
            figures = {"top1": accuracy.top1, "top5": accuracy.top5}
            job.result({name: value for name, value in figures.items() if value is not None}, None)
            job.close(finished=True)

    def epoch(self, row: EpochRow) -> None:
        """Called after an epoch of training."""
        if self._curves is None:
            return
        self._curves.write(row)
        job = job_type(row.phase)
        # Counted over all phases of this kind, so that a resumed run continues at the right step.
        step = sum(job_type(phase) == job for phase in self._curves.phases())
        self._job(job).log(figures_of(row), step)

    def restore(self, phase: str, rows: list[Row]) -> None:
        """Called when a training is resumed after the epochs of these rows."""
        if self._curves is not None:
            self._curves.restore(phase, rows)

    def evaluations(self, phase: str, found: Sequence[Evaluation], earlier: int) -> None:
        """Called when a search has judged candidates; ``earlier`` of its evaluations ``found`` were passed before."""
        if self._search is None:
            return
        self._search.write(phase, found)
        for each in found[earlier:]:
            figures = {"search/kept": each.kept, "search/score": each.score, "search/best": each.best}
            self._job(job_type(phase)).log(figures, each.number)

    def finish(self, record: Record) -> None:
        """Called when the run has all its figures."""
        figures = {measure.name: measure.read(record) for measure in MEASURES}
        known = {name: value for name, value in figures.items() if value is not None}
        self._job(RESULT).result(known, record)
        self._finished = True

    def deployed(self, folder: Path, config: Mapping[str, Any], stages: Sequence[Stage]) -> None:
        """Called after the export of a finished run in ``folder``: its stages, with those in other runtimes."""
        self._folder, self._config, self._baseline_key = folder, config, ""
        self._jobs, self._finished = {}, True
        self.begin(folder, config)
        try:
            self._job(RESULT).stages(stages)
        finally:
            self.close()

    def close(self) -> None:
        """Called at the end of the run, with or without success. Returns when everything is written or uploaded."""
        for job in self._jobs.values():
            job.close(self._finished)
        self._jobs.clear()
        self.end()

    def _job(self, job: str) -> Job:
        """The job of this type; it starts when there is something to log."""
        if job not in self._jobs:
            key = self._baseline_key if job == BASELINE else self._folder.name
            self._jobs[job] = self.start_job(JobPlace(job, key, self._folder, self._config))
        return self._jobs[job]


class CsvLogger(RunLogger):
    """Writes learning curves into curves.csv, and evaluations of a search into search.csv, in the folder of the run
    (logger=csv)."""

    writes_curves = True
