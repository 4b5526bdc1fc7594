"""The load of the processor by other processes during a measurement."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STAT = Path("/proc/stat")
SHORTEST_S = 0.2
"""The kernel counts in ticks of 10 ms; the load over a shorter time is unknown."""

CONCURRENT_RUNS_VARIABLE = "PRUNELAB_CONCURRENT_RUNS"
"""Set by hydra/launcher=local (``prunelab.cli.local.launch``): the number of runs at the same time."""


@dataclass
class OtherLoad:
    """The mean number of processor cores that other processes used; None if it is not known."""

    cores: float | None = None


@contextmanager
def other_load() -> Iterator[OtherLoad]:
    """Measure the load by other processes during the ``with`` block; the result is there after the block.

    On Linux it is the busy time of the cores that this process may use, without the time of this process itself. On
    other systems it is the number of the other runs that hydra/launcher=local does at the same time, or unknown.
    """
    load = OtherLoad()
    start = _Clock.now()
    yield load
    load.cores = _cores_of_others(start, _Clock.now())


@dataclass(frozen=True)
class _Clock:
    """Seconds since some moment: of the wall clock, of this process on the processor, and of all processes."""

    wall: float
    own: float
    everything: float | None

    @classmethod
    def now(cls) -> _Clock:
        own = os.times()
        return cls(time.perf_counter(), own.user + own.system, _busy_seconds())


def _cores_of_others(start: _Clock, end: _Clock) -> float | None:
    seconds = end.wall - start.wall
    if start.everything is None or end.everything is None:
        runs = os.environ.get(CONCURRENT_RUNS_VARIABLE, "")
        return float(runs) - 1 if runs.isdecimal() else None
    if seconds < SHORTEST_S:
        return None
    others = (end.everything - start.everything) - (end.own - start.own)
    return max(0.0, others / seconds)


def _busy_seconds() -> float | None:
    """The time that the cores of this process have been busy since the start of the system; None if it is not known."""
    try:
        lines = STAT.read_text().splitlines()
        cores = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    except (OSError, AttributeError):  # no /proc, or no affinities: not Linux
        return None
    ticks = 0
    for name, *values in (line.split() for line in lines):
        if name in cores:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, values[:8])
            ticks += user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
