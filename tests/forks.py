"""Programs and commands that are started many times, in forks of one process that has imported everything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

SERVER = Path(__file__).with_name("fork_server.py")


@dataclass(frozen=True)
class Started:
    """A start: its process, the leader of a process group, and its output."""

    pid: int
    output: Path

    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


class Forks:
    """The server that is forked. Each fork uses one thread."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self._number = 0
        self._running: set[int] = set()

    def start(
        self, folder: Path, *words: str, program: Path | None = None, die_in_write: int | None = None
    ) -> Started:
        """Start the command, or ``program``, in ``folder``.

        With ``die_in_write`` all its processes die in that write to the disk.
        """
        self._number += 1
        output = folder / f"output-{self._number}.txt"
        answer = self._ask(
            start=words,
            program=None if program is None else str(program),
            folder=str(folder),
            output=str(output),
            die_in_write=die_in_write,
        )
        self._running.add(answer["pid"])
        return Started(answer["pid"], output)

    def wait(self, started: Started) -> int:
        """The exit code, or minus the signal that ended the process."""
        status = self._ask(wait=started.pid)["status"]
        self._running.discard(started.pid)
        return int(status)

    def close(self) -> None:
        """End all processes that a failed test has left."""
        for pid in self._running:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self._pipe(self._server.stdin).close()
        self._server.wait()

    def _ask(self, **question: Any) -> dict[str, Any]:
        self._pipe(self._server.stdin).write(json.dumps(question) + "\n")
        self._pipe(self._server.stdin).flush()
        answer: dict[str, Any] = json.loads(self._pipe(self._server.stdout).readline())
        return answer

    @staticmethod
    def _pipe(pipe: Any) -> TextIO:
        assert pipe is not None
        return pipe
