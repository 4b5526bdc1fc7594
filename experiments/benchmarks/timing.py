"""Timing on a shared machine: alternating repetitions, medians of wall-clock time and of processor time."""

from __future__ import annotations

import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode


@dataclass
class Stopwatch:
    """Collects the seconds of named parts, one entry for each repetition."""

    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    processor: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Time the body of the context as one repetition of ``part``."""
        wall, processor = time.perf_counter(), time.process_time()
        yield
        self.processor[part].append(time.process_time() - processor)
        self.wall[part].append(time.perf_counter() - wall)

    def medians(self) -> dict[str, dict[str, float]]:
        """Part -> median milliseconds of wall-clock time, and of processor time of this process."""
        return {
            part: {
                "wall_ms": round(1000 * median(self.wall[part]), 3),
                "processor_ms": round(1000 * median(self.processor[part]), 3),
            }
            for part in self.wall
        }


class Watching(TorchDispatchMode):
    """A dispatch mode without effect: a lower bound of the time of tracing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def floor(build: Callable[[], nn.Module], images: Tensor) -> Callable[[], None]:
    """A plain forward pass on the meta device under an empty dispatch mode."""
    with torch.device("meta"):
        model = build().eval()
    stand_in = torch.empty_like(images, device="meta")

    def forward() -> None:
        with torch.no_grad(), Watching():
            model(stand_in)

    return forward


def machine(*packages: str) -> dict[str, Any]:
    """Hardware, threads and versions, for the record."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return {
        "processor": ", ".join(sorted(names)) or platform.processor(),
        "cores": os.cpu_count(),
        "load_at_start": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
    }
