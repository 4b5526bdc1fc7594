"""The states of Slurm jobs, from squeue, which every cluster has; sacct needs an accounting database."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

ALIVE = frozenset({
    "PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT",
    "PREEMPTED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "RESV_DEL_HOLD", "SPECIAL_EXIT",
})  # fmt: skip
"""States of a job that runs or may run (again)."""

ASK_TIMEOUT_S = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class State:
    """The state of a job by its name in Slurm; ``reason`` is the reason for waiting."""

    name: str
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether the job runs or may run (again)."""
        return self.name in ALIVE

    @property
    def ending(self) -> str:
        """The message about a job that ended without a result."""
        return ENDINGS.get(self.name, f"ended by Slurm ({self.name})")


GONE = State("GONE")
"""The state of a job that squeue no longer lists, some minutes after its end."""

ENDINGS = {
    "CANCELLED": "cancelled with scancel",
    "TIMEOUT": "stopped by Slurm at its time limit; it did not react to the signal before the limit",
    "OUT_OF_MEMORY": "stopped by Slurm because it used more memory than hydra.launcher.memory_gb",
    "NODE_FAIL": "lost because its node failed",
    "GONE": "ended without a result",
    "COMPLETED": "ended without a result",
    "FAILED": "ended without a result",
}


def states(job_ids: Iterable[str]) -> dict[str, State] | None:
    """The states of those jobs ("12" or "12_3") that squeue lists; None if squeue fails or times out."""
    jobs = ",".join(sorted({job.partition("_")[0] for job in job_ids}))
    command = ["squeue", "--array", "--states=all", "--noheader", "--format=%i|%T|%r", f"--jobs={jobs}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None
    if answer.returncode != 0 and "Invalid job id" not in answer.stderr:
        log.debug("squeue: %s", answer.stderr.strip())
        return None
    return _parsed(answer.stdout)


def _parsed(text: str) -> dict[str, State]:
    rows = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
    return {job.strip(): State(name, reason) for job, name, reason in rows}
