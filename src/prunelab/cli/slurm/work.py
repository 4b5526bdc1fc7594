"""What a Slurm job does: one run, which goes back into the queue when the job's time is nearly over.

submitit catches the signal that Slurm sends before the limit. Lightning would do so as well: that is switched off (see
``recovery.machine``), so that a job is not requeued twice.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from submitit.helpers import DelayedSubmission

from prunelab.cli.run import attempt, perform, speaking
from prunelab.cli.summary import Job

EARLY_S = 60
"""Slurm may send the signal up to so many seconds before it was asked to."""

_started = time.monotonic()


class TimeIsUp(BaseException):
    """Raised in the middle of a run that may not go back into the queue again. No failure of the run itself."""


@dataclass(frozen=True)
class SlurmRun:
    """The run of the resolved ``config``, called on every process of the job.

    Attributes:
        label: its part of the command line.
        seconds: from the beginning of a job until the signal.
        restarts: how often it may still be interrupted by its time limit.
        starts: how often it was begun, this time included.
    """

    config: Mapping[str, Any]
    label: str
    seconds: int
    restarts: int
    starts: int = 1

    def __call__(self) -> Job:
        try:
            with speaking():
                return attempt(lambda: perform(self.config, self.label), self.label)
        except TimeIsUp:
            times = "once" if self.starts == 1 else f"{self.starts} times"
            return Job(
                self.label,
                error=f"not finished within its time limit, which it reached {times}. The same command goes on from "
                "here; hydra.launcher.minutes and hydra.launcher.restarts give it more time.",
            )

    def checkpoint(self) -> DelayedSubmission:
        """What goes back into the queue: the same run, which goes on from the newest checkpoint in its folder.

        Called by submitit in the first process, in the middle of whatever that is doing. A job that is preempted
        long before its limit may come back as often as that happens.
        """
        if time.monotonic() - _started < self.seconds - EARLY_S:
            return DelayedSubmission(self)
        if self.restarts == 0:
            raise TimeIsUp
        return DelayedSubmission(replace(self, restarts=self.restarts - 1, starts=self.starts + 1))
