"""What Slurm knows about jobs. It is asked through squeue, which every cluster has; sacct needs a data base."""

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
    """The state of a job in Slurm's words; ``reason`` says why it waits, if it does."""

    name: str
    reason: str = ""

    @property
    def alive(self) -> bool:
        """Whether the job runs or may run (again)."""
        return self.name in ALIVE

    @property
    def ending(self) -> str:
        """Why a job ended without a result, for its user."""
        return ENDINGS.get(self.name, f"ended by Slurm ({self.name})")


GONE = State("GONE")
"""Of a job that Slurm has forgotten, some minutes after its end."""

ENDINGS = {
    "CANCELLED": "cancelled with scancel",
    "TIMEOUT": "stopped by Slurm at its time limit, without having heard the warning before it",
    "OUT_OF_MEMORY": "stopped by Slurm because it used more memory than hydra.launcher.memory_gb",
    "NODE_FAIL": "lost with the machine that it ran on",
    "GONE": "ended without a result",
    "COMPLETED": "ended without a result",
    "FAILED": "ended without a result",
}


def states(job_ids: Iterable[str]) -> dict[str, State] | None:
    """The states of those jobs ("12" or "12_3") that Slurm remembers; None if it does not answer now."""
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
