"""Waits for Slurm jobs and collects their results."""

from __future__ import annotations

import logging
import pickle
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from prunelab.cli.slurm.jobs import GONE, State, states
from prunelab.cli.slurm.result_file import read_result
from prunelab.cli.summary import Job

LAG_S = 15
"""A result can appear on this machine up to this number of seconds after Slurm reports the end of its job."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submitted:
    """A job ("12", or "12_3" of an array) that does the run ``label``, and the folder of its files."""

    job_id: str
    label: str
    folder: Path

    @property
    def result_file(self) -> Path:
        """The file that submitit writes at the end of the first process of the job."""
        return self.folder / f"{self.job_id}_0_result.pkl"

    @property
    def output_file(self) -> Path:
        """The output of the first process."""
        return self.folder / f"{self.job_id}_0_log.out"

    def result(self) -> Job | None:
        """The result of the run if the job wrote one; the file is removed."""
        try:
            ending, content = read_result(self.result_file)
        except FileNotFoundError:
            return None
        except pickle.UnpicklingError as error:
            return self.lost(f"its result {self.result_file.name} cannot be used ({error})")
        self.result_file.unlink()  # Slurm reuses job numbers after some time
        if ending == "success":
            return replace(content, label=self.label)
        return self.lost(f"failed outside of the run: {content.strip().splitlines()[-1]}")

    def lost(self, why: str) -> Job:
        """The result of a job that did not write one."""
        output = f" See {self.output_file}" if self.output_file.exists() else ""
        return Job(self.label, error=f"Slurm job {self.job_id}: {why}.{output}")


def endings(submitted: Mapping[int, Submitted], poll_s: float) -> dict[int, Job]:
    """The result of each job, when all have ended. The queue is read every ``poll_s`` seconds.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C; the jobs continue.
    """
    watch = _Watch(dict(submitted))
    try:
        while watch.open:
            watch.poll()
            if watch.open:
                time.sleep(poll_s)
    except KeyboardInterrupt:
        jobs = sorted({job.job_id.split("_")[0] for job in watch.open.values()})
        log.warning(
            "The jobs continue without this process. The same command waits for them again; to end them: scancel %s",
            " ".join(jobs),
        )
        raise
    return watch.ended


class _Watch:
    """The jobs that have not ended, and the results of the others."""

    def __init__(self, jobs: dict[int, Submitted]) -> None:
        self.open = jobs
        self.ended: dict[int, Job] = {}
        self._over_since: dict[int, float] = {}
        self._logged = ""

    def poll(self) -> None:
        """Read the queue once, and log what has changed."""
        found = states(job.job_id for job in self.open.values())
        for number, job in list(self.open.items()):
            state = None if found is None else found.get(job.job_id, GONE)
            ending = job.result() or self._ending_without_result(number, job, state)
            if ending is not None:
                self.ended[number] = ending
                del self.open[number]
        if found is not None:
            self._log(found)

    def _ending_without_result(self, number: int, job: Submitted, state: State | None) -> Job | None:
        if state is None or state.alive:  # unknown, or back in the queue
            self._over_since.pop(number, None)
            return None
        since = self._over_since.setdefault(number, time.monotonic())
        return job.lost(state.ending) if time.monotonic() - since >= LAG_S else None

    def _log(self, found: Mapping[str, State]) -> None:
        now = [found.get(job.job_id, GONE) for job in self.open.values()]
        counts = Counter(
            f"{state.name.lower()} ({state.reason})" if state.name == "PENDING" else state.name.lower()
            for state in now
        )
        failed = sum(job.error is not None for job in self.ended.values())
        words = [f"{count} {name}" for name, count in sorted(counts.items())]
        text = ", ".join([*words, f"{len(self.ended)} over" + (f" ({failed} failed)" if failed else "")])
        if text != self._logged:
            log.info("Slurm: %s", text)
            self._logged = text
