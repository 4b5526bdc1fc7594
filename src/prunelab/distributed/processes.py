"""The processes of one distributed run: started together, and kept in step."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytorch_lightning as pl
import torch.distributed as dist

from prunelab.distributed.ranks import gather, world

STARTED_FOR = "PRUNELAB_STARTED_FOR"
"""Environment variable: the key of the run for which the first process started the others."""

LIGHTNINGS = ("LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT")
"""Environment variables by which Lightning knows that the other processes are there, and where they meet."""

STARTED_WITH = "PRUNELAB_STARTED_WITH"
"""Environment variable: those of LIGHTNINGS that Lightning has set itself."""


def start_processes(trainer: pl.Trainer, key: str) -> None:
    """Start the other processes of the run ``key``, if ``trainer`` wants several, and connect them.

    Lightning would do so in the first training; but all that comes before must be decided together as well. The
    others run the same command line from its beginning; ``takes_part`` tells them which runs are not theirs.
    """
    if trainer.world_size == 1 or dist.is_initialized():
        return
    os.environ[STARTED_FOR] = key
    os.environ.setdefault(STARTED_WITH, " ".join(name for name in LIGHTNINGS if name not in os.environ))
    launcher = trainer.strategy.launcher
    if launcher is not None:  # it starts nobody where Slurm or torchrun has started them
        launcher.launch(trainer.strategy.setup_environment)
    atexit.register(leave)  # while the interpreter lives: the threads of a group can abort what they outlive


def leave() -> None:
    """Leave the process group, if there is one; the first process may then start others for another run."""
    if not dist.is_initialized():
        return
    dist.destroy_process_group()
    if os.environ.get("LOCAL_RANK") == "0" and os.environ.get(STARTED_FOR):
        for name in (STARTED_FOR, *os.environ.pop(STARTED_WITH, "").split()):
            os.environ.pop(name, None)


def takes_part(key: str) -> bool:
    """Whether this process belongs to the run ``key``: one that was started by another joins a sweep where it is."""
    return dist.is_initialized() or os.environ.get(STARTED_FOR, key) == key


def is_rank_zero() -> bool:
    """Whether this is the process that writes."""
    return world()[0] == 0


@contextmanager
def held_by_rank_zero(take: Callable[[], AbstractContextManager[None]]) -> Iterator[None]:
    """What ``take`` gives is held by the first process, for all; the others wait until it has it."""
    with take() if is_rank_zero() else nullcontext():
        gather(None)
        yield
