"""Work in a process of its own, with limits of time and memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from network_trial import described

GIGABYTES = 8
WALL_PER_PROCESSOR_SECOND = 4


def collected(work: Callable[[], Iterator[dict[str, Any]]], seconds: int) -> dict[str, Any]:
    """The parts of the results of ``work``, merged. ``error`` is set where it failed or was ended at a limit.

    ``seconds`` of processor time; four times as many on the clock.
    """
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_report, args=(there, work, seconds))
    process.start()
    there.close()
    row: dict[str, Any] = {}
    until = time.monotonic() + WALL_PER_PROCESSOR_SECOND * seconds
    with contextlib.suppress(EOFError):
        while here.poll(max(0.0, until - time.monotonic())):
            row |= here.recv()
        process.kill()
    process.join()
    if row.get("step") is not None and not isinstance(row.get("error"), str):
        row["error"] = f"ended by {_signal(process.exitcode)} (limits: {seconds} s, {GIGABYTES} GB)"
    return row


def _report(there: Connection, work: Callable[[], Iterator[dict[str, Any]]], seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_DATA, (GIGABYTES * 2**30, GIGABYTES * 2**30))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    try:
        for part in work():
            there.send(part)
    except Exception as error:  # a result of the benchmark
        there.send({"error": described(error)})
    there.close()


def _signal(code: int | None) -> str:
    return signal.Signals(-code).name if code is not None and code < 0 else f"exit status {code}"
