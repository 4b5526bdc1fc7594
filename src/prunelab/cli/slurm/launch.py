"""Submits the runs of a sweep to Slurm, and waits until each has ended."""

from __future__ import annotations

import json
import logging
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prunelab.cli import planning
from prunelab.cli.slurm.jobs import states
from prunelab.cli.slurm.settings import SlurmSettings
from prunelab.cli.slurm.wait import Submitted, endings
from prunelab.cli.summary import Job
from prunelab.errors import UserError
from prunelab.records import RunFolder, write_atomically

FOLDER = ".slurm"
"""Folder inside a study: the output of its jobs, and the files of submitit."""

QUEUED_FILE = "queued.json"
"""File in that folder: the newest job of each run, by the key of the run."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """An unfinished run; ``label`` is its part of the command line."""

    config: Mapping[str, Any]
    label: str
    key: str
    folder: Path

    @classmethod
    def of(cls, run: planning.Run) -> Run:
        folder = RunFolder.of(run.config)
        # Absolute, because submitit passes the name of the folder to the job.
        return cls(run.config, run.label, folder.key, folder.path.parent.absolute() / FOLDER)

    def processes(self, gpus: int) -> tuple[int, int]:
        """(nodes, processes on each node) from the settings of the trainer; Slurm starts them."""
        trainer = self.config["trainer"]
        devices = trainer["devices"]
        if isinstance(devices, str):
            devices = int(devices) if devices.isdigit() else max(gpus, 1)  # "auto"
        return trainer["num_nodes"], len(devices) if isinstance(devices, list) else devices


def do_runs(left: Mapping[int, planning.Run], settings: SlurmSettings) -> dict[int, Job]:
    """The result of each run, by its number. Jobs that are still in the queue are not submitted again.

    Raises:
        UserError: there is no Slurm on this machine, or it rejects the jobs.
    """
    _require_slurm()
    runs = {number: Run.of(run) for number, run in left.items()}
    submitted = _in_queue(runs)
    submitted |= _submit({n: run for n, run in runs.items() if n not in submitted}, settings)
    return endings(submitted, settings.poll_s)


def _require_slurm() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UserError("hydra/launcher=slurm needs submitit: pip install 'prunelab[cluster]'") from error
    if shutil.which("sbatch") is None:
        raise UserError(
            "hydra/launcher=slurm: this machine has no Slurm (no sbatch). Start the sweep on a login node of the "
            "cluster, or omit hydra/launcher=slurm."
        )


def _in_queue(runs: Mapping[int, Run]) -> dict[int, Submitted]:
    """The jobs of an earlier start of this sweep that are running or waiting."""
    noted = {folder: _noted(folder) for folder in {run.folder for run in runs.values()}}
    jobs = {
        number: noted[run.folder][run.key] for number, run in runs.items() if run.key in noted[run.folder]
    }
    known = (states(jobs.values()) if jobs else None) or {}
    found = {
        number: Submitted(job, runs[number].label, runs[number].folder)
        for number, job in jobs.items()
        if job in known and known[job].alive
    }
    if found:
        log.info("Waiting for %d jobs of an earlier start that are in the queue.", len(found))
    return found


def _submit(runs: Mapping[int, Run], settings: SlurmSettings) -> dict[int, Submitted]:
    """Submit one job array for all runs of a study with the same number of processes."""
    alike: dict[tuple[Path, int, int], dict[int, Run]] = defaultdict(dict)
    for number, run in runs.items():
        alike[(run.folder, *run.processes(settings.gpus))][number] = run
    submitted: dict[int, Submitted] = {}
    for (folder, nodes, processes), members in alike.items():
        jobs = _submit_array(list(members.values()), folder, settings, settings.parameters(nodes, processes))
        _note(folder, {run.key: job for run, job in zip(members.values(), jobs, strict=True)})
        for (number, run), job in zip(members.items(), jobs, strict=True):
            submitted[number] = Submitted(job, run.label, folder)
        log.info(
            "%d runs submitted as Slurm job %s; their output: %s", len(jobs), jobs[0].split("_")[0], folder
        )
    return submitted


def _submit_array(
    runs: Sequence[Run], folder: Path, settings: SlurmSettings, parameters: Mapping[str, Any]
) -> list[str]:
    """The ids of the jobs. Raises UserError if Slurm rejects them."""
    import submitit
    from submitit.core.utils import FailedJobError

    from prunelab.cli.slurm.work import SlurmRun

    # submitit also limits interruptions, including those by Slurm; the count in SlurmRun has only those at the limit.
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=1_000_000)
    executor.update_parameters(**parameters)
    seconds = 60 * settings.minutes - settings.warning_s
    try:
        with executor.batch():
            jobs = [
                executor.submit(SlurmRun(run.config, run.label, seconds, settings.restarts)) for run in runs
            ]
    except FailedJobError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise UserError(
            f"Slurm rejects the jobs ({lines[-1] if lines else error}). The keys of hydra.launcher set what a job "
            "requests (hydra.launcher.gpus=0 on a cluster without GPUs)."
        ) from error
    return [job.job_id for job in jobs]


def _noted(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / QUEUED_FILE).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _note(folder: Path, jobs: Mapping[str, str]) -> None:
    write_atomically(folder / QUEUED_FILE, json.dumps({**_noted(folder), **jobs}))
