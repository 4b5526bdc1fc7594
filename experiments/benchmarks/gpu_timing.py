"""Times of work on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

Row = tuple[str, dict[str, Any]]
"""What was measured, and the figures."""


def device_milliseconds(work: Callable[[], Any], seconds: float = 0.5, most: int = 200) -> float:
    """The median of the times between events before and after ``work``, after a warm-up of a quarter of ``seconds``."""
    one = max(wall_seconds(work, repetitions=2), 1e-6)
    for _ in range(int(min(most, seconds / 4 / one)) + 2):
        work()
    repetitions = int(min(most, max(5, seconds / one)))
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    torch.cuda.synchronize()
    for begin, end in events:
        begin.record()
        work()
        end.record()
    torch.cuda.synchronize()
    return median(begin.elapsed_time(end) for begin, end in events)


def wall_seconds(work: Callable[[], Any], repetitions: int = 3) -> float:
    """The median of the seconds until the device has done ``work``."""
    found = []
    for _ in range(repetitions):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize()
        found.append(time.perf_counter() - begin)
    return median(found)
