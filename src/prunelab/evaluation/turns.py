"""Times of several programs that take turns, so that other load on the machine slows all of them equally."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from prunelab.evaluation.target import Target
from prunelab.records.deployment import Percentiles

WARM_S = 0.005

Program = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Clocks:
    """The clock of comparisons, and the wall clock; both return seconds.

    processor: the processor time of this thread if the target is one thread of a processor: it excludes the time of
        other processes. Else the same as ``wall``.
    wait: returns when the device has finished all work.
    """

    processor: Clock
    wall: Clock
    wait: Callable[[], None]

    @classmethod
    def of(cls, target: Target) -> Clocks:
        """The clocks of a target."""
        kind = torch.device(target.device).type
        waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
        processor = time.thread_time if kind == "cpu" and target.threads == 1 else time.perf_counter
        return cls(processor, time.perf_counter, waits.get(kind, lambda: None))


@dataclass(frozen=True)
class Times:
    """Seconds of one call of a program in each turn: processor (turns,), wall (turns,)."""

    processor: NDArray[np.float64]
    wall: NDArray[np.float64]


def in_turns(
    programs: Sequence[Program],
    clocks: Clocks,
    seconds: float,
    turns: tuple[int, int] = (5, 100),
    shortest: float = 0.0,
) -> list[Times]:
    """The times of all programs, which run one after another in every turn.

    Args:
        programs: functions without arguments. Each is called once or twice before the first turn.
        clocks: the clocks of the measurement.
        seconds: approximate time of all turns.
        turns: the smallest and the largest number of turns.
        shortest: a program that is faster is called several times in each turn, for about this number of seconds.

    Example:
        >>> ticks = iter(range(1000))
        >>> clocks = Clocks(lambda: float(next(ticks)), lambda: 0.0, lambda: None)
        >>> in_turns([lambda: None], clocks, seconds=3.0, turns=(3, 3))[0].processor.tolist()
        [1.0, 1.0, 1.0]
    """
    for program in programs:
        _timed(program, 1, clocks)  # memory is allocated, kernels are chosen
    first = [_timed(program, 1, clocks)[0] for program in programs]
    calls = [max(1, min(1000, round(shortest / max(once, 1e-9)))) for once in first]
    one_turn = sum(once * number for once, number in zip(first, calls, strict=True))
    count = int(min(max(round(seconds / max(one_turn, 1e-9)), turns[0]), turns[1]))
    found = [
        [_timed(program, number, clocks) for program, number in zip(programs, calls, strict=True)]
        for _ in range(count)
    ]
    values = np.array(found, dtype=np.float64)  # (turns, programs, 2)
    return [Times(values[:, number, 0], values[:, number, 1]) for number in range(len(programs))]


def percentiles(programs: Sequence[Program], target: Target, seconds: float) -> list[Percentiles]:
    """Median and 90th percentile over turns of one call of each program, in milliseconds.

    Processor time for one thread. A turn lasts at least ``WARM_S``: the first call after another program is slower,
    because caches hold the data of that program.
    """
    with threads(target.threads), torch.inference_mode():
        found = in_turns(programs, Clocks.of(target), seconds, shortest=WARM_S if seconds else 0.0)
    return [Percentiles.of((1000 * times.processor).tolist()) for times in found]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch computes with ``number`` threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _timed(program: Program, calls: int, clocks: Clocks) -> tuple[float, float]:
    """Processor and wall seconds of one of ``calls`` calls."""
    clocks.wait()
    wall, processor = clocks.wall(), clocks.processor()
    for _ in range(calls):
        program()
    clocks.wait()
    processor, wall = clocks.processor() - processor, clocks.wall() - wall
    return processor / calls, wall / calls
