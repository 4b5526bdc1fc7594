"""Doing the runs of a sweep on this machine, several at a time, each in a process that has a share of it."""

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
from prunelab.cli.run import attempt, perform, speaking
from prunelab.cli.summary import Job, short_names

START_METHOD = "loky"
"""A fresh interpreter for each process: neither CUDA nor threads survive a fork."""

IDLE_S = 30
"""A process that has had nothing to do for so long leaves, also when the sweep that started it was killed."""

log = logging.getLogger(__name__)


def do_runs(runs: Mapping[int, Run], settings: LocalSettings) -> dict[int, Job]:
    """How each run ended, by its number.

    Raises:
        UserError: the machine has not what ``settings`` ask for.
        KeyboardInterrupt: the user pressed Ctrl-C; all processes are gone.
    """
    on_gpus = any(run.config["trainer"]["accelerator"] != "cpu" for run in runs.values())
    shares = settings.shares(visible_gpus() if on_gpus else [], usable_cores())
    return _done(runs, [_Worker(share) for share in shares[: len(runs)]])


class _Worker:
    """A process with one share of the machine, which does one run at a time. A new one follows one that died."""

    def __init__(self, share: Mapping[str, str]) -> None:
        self._share = {**share, "TERM": "dumb"}  # bars of several processes would overwrite one another
        self._pool = self._started()

    def begin(self, run: Run) -> Future[Job]:
        return self._pool.submit(_do, run)

    def ended(self, future: Future[Job], run: Run) -> Job:
        """How the run ended that this process was given."""
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
    """How each run ended, by its number; each worker takes the next run when it has done one."""
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
    """One run, in its process."""
    with speaking():
        return attempt(lambda: perform(run.config, run.label), run.label)


def _leave_interrupts_to_the_sweep() -> None:
    """Ctrl-C reaches every process of a terminal; the sweep's own process then stops all others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _cause(death: BaseException) -> str:
    """What to say of a process that is gone; loky names the signal that ended it, but one that told it to leave."""
    if isinstance(death, SystemExit):
        return "its process was told to stop (SIGTERM). The same command goes on from here."
    found = re.search(r"exit codes of the workers are \{(.+?)\}", str(death))
    code = found[1] if found else "unknown signal"
    return (
        f"its process was killed ({code}), perhaps because memory ran out. The same command goes on from here; "
        "fewer runs at a time need less memory: hydra.launcher.jobs."
    )


def _how(job: Job) -> str:
    """How the run ended, in a word or two; the summary says why one failed."""
    if job.error is not None:
        return "failed"
    return "finished" if job.is_new else "already there"
