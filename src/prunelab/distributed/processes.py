"""The processes of one distributed run: start, rank zero, and leaving the process group."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import pytorch_lightning as pl
import torch.distributed as dist

from prunelab.distributed.ranks import gather, world

Held = TypeVar("Held")

STARTED_FOR = "PRUNELAB_STARTED_FOR"
"""Environment variable: the key of the run for which rank zero started the other processes."""

LIGHTNING_VARIABLES = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
"""Environment variables that Lightning sets for the processes that it starts."""

STARTED_WITH = "PRUNELAB_STARTED_WITH"
"""Environment variable: those of LIGHTNING_VARIABLES that were not set before Lightning started the processes."""


def start_processes(trainer: pl.Trainer, key: str) -> None:
    """Start the other processes of the run ``key`` if ``trainer`` needs several, and create the process group.

    Lightning would start them in the first ``fit``, which is too late: the ranks also have to agree on everything that
    precedes it. A started process executes the same command line from its beginning; with ``takes_part`` it skips the
    runs of a sweep that it was not started for.
    """
    if trainer.world_size == 1 or dist.is_initialized():
        return
    os.environ[STARTED_FOR] = key
    missing = [name for name in LIGHTNING_VARIABLES if name not in os.environ]
    os.environ.setdefault(STARTED_WITH, " ".join(missing))
    launcher = trainer.strategy.launcher
    if launcher is not None:  # starts nothing under Slurm or torchrun, which have started the processes
        launcher.launch(trainer.strategy.setup_environment)
    atexit.register(
        leave
    )  # before the interpreter ends, because threads of an existing group could then abort the process


def leave() -> None:
    """Destroy the process group, if there is one. Rank zero can then start processes for another run."""
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    if os.environ.get("LOCAL_RANK") == "0" and os.environ.get(STARTED_FOR):
        for name in (STARTED_FOR, *os.environ.pop(STARTED_WITH, "").split()):
            os.environ.pop(name, None)


def takes_part(key: str) -> bool:
    """Whether this process belongs to the run ``key``. A process that rank zero started skips all earlier runs."""
    return dist.is_initialized() or os.environ.get(STARTED_FOR, key) == key


def is_rank_zero() -> bool:
    """Whether this is the process that writes files."""
    return world()[0] == 0


@contextmanager
def held_by_rank_zero(take: Callable[[], AbstractContextManager[Held]], elsewhere: Held) -> Iterator[Held]:
    """Enter the context ``take()`` on rank zero; the other ranks wait until it is entered and receive ``elsewhere``."""
    with take() if is_rank_zero() else nullcontext(elsewhere) as held:
        gather(None)
        yield held
