"""Runs the jobs of a sweep on this machine, several at a time, each in a process with its share of the machine."""

from __future__ import annotations

import logging
import re
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait

import loky
from loky.process_executor import BrokenProcessPool

from prunelab.cli.local.settings import LocalSettings, usable_cores, visible_gpus
from prunelab.cli.planning import Run
from prunelab.cli.run import attempt, console_messages, perform
from prunelab.cli.summary import Job, short_names

START_METHOD = "loky"
"""A new interpreter for each process, because CUDA and threads do not work after a fork."""

CONCURRENT_RUNS_VARIABLE = "PRUNELAB_CONCURRENT_RUNS"
"""``prunelab.evaluation.load`` reads it. (Importing that module would import torch into the process of the sweep.)"""

IDLE_S = 30
"""An idle process ends after this number of seconds, also if the sweep that started it was killed."""

log = logging.getLogger(__name__)


def do_runs(runs: Mapping[int, Run], settings: LocalSettings) -> dict[int, Job]:
    """The result of each run, by its number.

    Raises:
        UserError: the machine has fewer GPUs than ``settings`` require.
        KeyboardInterrupt: the user pressed Ctrl-C; all processes have ended.
    """
    on_gpus = any(run.config["trainer"]["accelerator"] != "cpu" for run in runs.values())
    shares = settings.shares(visible_gpus() if on_gpus else [], usable_cores())
    used = shares[: len(runs)]
    return _done(runs, [_Worker({**share, CONCURRENT_RUNS_VARIABLE: str(len(used))}) for share in used])


class _Worker:
    """A process with one share of the machine, which does one run at a time. A killed process is replaced."""

    def __init__(self, share: Mapping[str, str]) -> None:
        self._share = {
            **share,
            "TERM": "dumb",
        }  # no progress bars, because those of several processes overwrite one another
        self._pool = self._started()

    def begin(self, run: Run) -> Future[Job]:
        return self._pool.submit(_do, run)

    def ended(self, future: Future[Job], run: Run) -> Job:
        """The result of the run that this process did."""
        try:
            return future.result()
        except (BrokenProcessPool, SystemExit) as death:
            self.stop(kill=True)
            self._pool = self._started()
            return Job(run.label, error=_cause(death))

    def stop(self, kill: bool) -> None:
        self._pool.shutdown(wait=True, kill_workers=kill)

    def _started(self) -> loky.ProcessPoolExecutor:
        return loky.ProcessPoolExecutor(
            1,
            context=loky.backend.get_context(START_METHOD),
            timeout=IDLE_S,
            initializer=_leave_interrupts_to_the_sweep,
            env=self._share,
        )


def _done(runs: Mapping[int, Run], workers: Sequence[_Worker]) -> dict[int, Job]:
    """The result of each run, by its number; a worker starts the next run when it has finished one."""
    waiting = deque(runs)
    free = list(workers)
    busy: dict[Future[Job], tuple[int, _Worker]] = {}
    jobs: dict[int, Job] = {}
    names = short_names([run.label for run in runs.values()])
    complete = False
    try:
        while waiting or busy:
            while waiting and free:
                number, worker = waiting.popleft(), free.pop(0)
                busy[worker.begin(runs[number])] = number, worker
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                number, worker = busy.pop(future)
                jobs[number] = worker.ended(future, runs[number])
                free.append(worker)
                log.info(
                    "[%d of %d] %s: %s", len(jobs), len(runs), names[jobs[number].label], _how(jobs[number])
                )
        complete = True
    finally:
        for worker in workers:
            worker.stop(kill=not complete)
    return jobs


def _do(run: Run) -> Job:
    """Do one run in this process."""
    with console_messages():
        return attempt(lambda: perform(run.config, run.label), run.label)


def _leave_interrupts_to_the_sweep() -> None:
    """Ignore Ctrl-C, which every process of a terminal receives; the main process of the sweep stops the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cause(death: BaseException) -> str:
    """The message about a process that has ended; loky reports the signal, except for SIGTERM."""
    if isinstance(death, SystemExit):
        return "its process received SIGTERM. The same command continues from here."
    found = re.search(r"exit codes of the workers are \{(.+?)\}", str(death))
    code = found[1] if found else "unknown signal"
    return (
        f"its process was killed ({code}), possibly because memory ran out. The same command continues from here; "
        "fewer runs at a time need less memory: hydra.launcher.jobs."
    )


def _how(job: Job) -> str:
    """The result of the run in one word; the summary contains the errors."""
    if job.error is not None:
        return "failed"
    return "finished" if job.is_new else "already there"
