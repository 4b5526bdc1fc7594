"""Times and memory of work on a GPU; in a trial on a processor, the processor's times."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

Figures = dict[str, Any]

Row = tuple[str, Callable[[], Figures]]
"""The name of a row, and the function that measures it."""

Work = Callable[[], Any]


@dataclass(frozen=True)
class Place:
    """Where the benchmark runs.

    device: the GPU, or the processor for a trial.
    quick: a trial with small networks and few images: it executes the code of each row.
    """

    device: torch.device
    quick: bool

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.on_gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Work, repetitions: int = 3) -> float:
        """The median of the seconds until the device has finished ``work``."""
        found = []
        for _ in range(1 if self.quick else repetitions):
            self.wait()
            begin = time.perf_counter()
            work()
            self.wait()
            found.append(time.perf_counter() - begin)
        return median(found)

    def milliseconds(self, work: Work, seconds: float = 0.5, most: int = 200) -> float:
        """The median of the times between events before and after ``work``, after a warm-up of half of ``seconds``."""
        work()  # compiles, allocates and chooses algorithms, which must not count for the number of repetitions
        one = max(self.seconds(work, repetitions=3), 1e-6)
        if not self.on_gpu or self.quick:
            return 1000 * one
        for _ in range(int(min(most, seconds / 2 / one)) + 2):
            work()
        repetitions = int(min(most, max(5, seconds / one)))
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
        self.wait()
        for begin, end in events:
            begin.record()
            work()
            end.record()
        self.wait()
        return median(begin.elapsed_time(end) for begin, end in events)

    def peak_gib(self, work: Work) -> float | None:
        """The peak of the memory of all tensors during ``work``, in GiB; None on a processor."""
        gc.collect()
        if not self.on_gpu:
            work()
            return None
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self.device)
        work()
        self.wait()
        return torch.cuda.max_memory_allocated(self.device) / 2**30

    def recovers(self) -> bool:
        """Release the memory of work that failed; False if no further work is possible in this process.

        After an illegal access or a failed assertion on the device every later call of CUDA fails as well. To be called
        outside the ``except`` clause: the traceback of an exception keeps tensors alive.
        """
        gc.collect()
        if not self.on_gpu:
            return True
        try:
            self.wait()
            torch.cuda.empty_cache()
        except RuntimeError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            return False
        return True
