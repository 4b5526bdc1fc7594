"""The work of a Slurm job: one run, which is requeued shortly before the time limit of the job.

submitit handles the signal that Slurm sends before the limit. Lightning's own handling is switched off (see
``training.machine``), so that a job is not requeued twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from submitit.helpers import DelayedSubmission

from prunelab.cli.run import attempt, console_messages, perform
from prunelab.cli.summary import Job

EARLY_S = 60
"""Slurm can send the signal up to this number of seconds earlier than requested."""

_started = time.monotonic()


class TimeIsUp(BaseException):
    """Raised during a run that must not be requeued again. It is not a failure of the run."""


@dataclass(frozen=True)
class SlurmRun:
    """The run of the resolved ``config``, called on every process of the job.

    Attributes:
        label: its part of the command line.
        seconds: from the start of a job until the signal.
        restarts: remaining number of interruptions by the time limit.
        starts: number of starts, including this one.
    """

    config: Mapping[str, Any]
    label: str
    seconds: int
    restarts: int
    starts: int = 1

    def __call__(self) -> Job:
        try:
            with console_messages():
                return attempt(lambda: perform(self.config, self.label), self.label)
        except TimeIsUp:
            times = "once" if self.starts == 1 else f"{self.starts} times"
            return Job(
                self.label,
                error=f"not finished within its time limit, which it reached {times}. The same command continues from "
                "here; hydra.launcher.minutes and hydra.launcher.restarts give it more time.",
            )

    def checkpoint(self) -> DelayedSubmission:
        """The job that is requeued: the same run, which continues from the newest checkpoint in its folder.

        submitit calls this in the first process, at any time during the run. Preemption long before the time limit does
        not count as an interruption.
        """
        if time.monotonic() - _started < self.seconds - EARLY_S:
            return DelayedSubmission(self)
        if self.restarts == 0:
            raise TimeIsUp
        return DelayedSubmission(replace(self, restarts=self.restarts - 1, starts=self.starts + 1))
