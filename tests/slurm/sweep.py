"""A running ``prunelab -m ... hydra/launcher=slurm``, with its output and actions of its user."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

PRUNELAB = [sys.executable, "-c", "from prunelab.cli.run import main; main()"]
LAUNCHER = {"gpus": 0, "cpus": 1, "minutes": 1, "warning_s": 1, "poll_s": 1}
SECONDS = 600

UNDER_WAY: list[subprocess.Popen[bytes]] = []
"""The started commands, so that none remains after a failed test."""


class Sweep:
    """The command with ``words``, begun in ``folder``."""

    def __init__(
        self, folder: Path, study: str, environment: Mapping[str, str], words: Sequence[str]
    ) -> None:
        self.study = folder / "outputs" / study
        self.environment = dict(environment)
        self._out, self._err = folder / f"{study}.out", folder / f"{study}.err"
        launcher = [f"hydra.launcher.{key}={value}" for key, value in LAUNCHER.items()]
        command = [*PRUNELAB, "-m", f"study={study}", "hydra/launcher=slurm", *launcher, *words]
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=folder, env=self.environment, stdout=out, stderr=err)
        UNDER_WAY.append(self.process)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    def reasons(self) -> list[str]:
        """The messages about failed runs."""
        return [line for line in self.err.splitlines() if line.startswith("prunelab: ")]

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        ).stdout

    def states(self) -> dict[str, str]:
        """State and reason of each job in the list of Slurm."""
        rows = self.slurm("squeue", "--array", "--states=all", "--noheader", "--format=%i %T %r").splitlines()
        return {row.split(" ", 1)[0]: row.split(" ", 1)[1] for row in rows}

    def submitted(self) -> str:
        """The number of the job array, when it was printed."""
        found = re.search(r"submitted as Slurm job (\d+)", self.err)
        return found[1] if found else ""

    def wait_for(self, what: str, seen: Callable[[], object]) -> None:
        """Requeued jobs do not wait for the two minutes of Slurm."""
        end = time.monotonic() + SECONDS
        while not seen():
            assert time.monotonic() < end, f"{what}: not in time\n{self.states()}\n{self.err}"
            for job, state in self.states().items():
                if state == "PENDING BeginTime":
                    self.slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
            time.sleep(0.5)

    def end(self) -> int:
        """Wait for the end of the sweep; its exit code."""
        self.wait_for("the end of the sweep", lambda: self.process.poll() is not None)
        return self.process.returncode
