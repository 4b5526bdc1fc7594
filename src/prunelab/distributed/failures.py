"""What ends a run in one of its processes ends it in all of them, soon."""

from __future__ import annotations

import gc
import logging
import threading
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch.distributed import distributed_c10d

from prunelab.distributed.processes import leave
from prunelab.distributed.ranks import RankFailure, described, world

Result = TypeVar("Result")

PATIENCE_S = 3.0
"""So long a process that failed waits for the others to fail as well, which happens if they are in step."""

LOOK_EVERY_S = 1.0

log = logging.getLogger(__name__)


def failing_together(work: Callable[[], Result]) -> Result:
    """Do ``work``, which communicates, in every process; if it fails in one of them, it fails in all.

    ``on_all_ranks`` will not do: the others may wait in any operation for the one that failed. That one says why in the
    store of the process group, and leaves the group. With gloo this breaks off what the others wait for; with NCCL,
    which would wait on, a thread of each process looks into the store and breaks it off.

    Raises:
        RankFailure: the work failed in some process. Unless it failed in all of them, there is no group any more.
    """
    if world()[1] == 1:
        return work()
    news = _News(distributed_c10d._get_default_store())
    over = threading.Event()
    if dist.get_backend() == dist.Backend.NCCL:
        threading.Thread(target=_break_off, args=(news, over), daemon=True).start()
    try:
        return work()
    except RankFailure:
        raise
    except Exception as error:
        log.debug("This process failed.", exc_info=True)
        message = news.tell(described(error))
        if not news.all_failed():
            traceback.clear_frames(error.__traceback__)  # they hold what holds the connections
            leave()
            gc.collect()
        raise RankFailure(message) from error
    finally:
        over.set()


class _News:
    """What the processes of a run tell one another of failures, in the store of their group."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._rank, self._size = world()
        call = store.add(f"prunelab/calls/{self._rank}", 1)  # all processes call equally often
        self._first, self._count, self._left = (
            f"prunelab/{call}/{name}" for name in ("first", "count", "left")
        )

    def tell(self, failure: str) -> str:
        """Say that this process failed; returns the failure that was told first."""
        try:
            first = self._store.compare_set(self._first, "", f"rank {self._rank}: {failure}").decode()
            self._store.add(self._count, 1)
        except RuntimeError:  # the store went with the process that held it
            return f"rank {self._rank}: {failure}"
        return first.partition(": ")[2] if self.all_failed() else first

    def all_failed(self) -> bool:
        """Whether all processes failed, each by itself and soon, so that they are in step still."""
        end = time.monotonic() + PATIENCE_S
        try:
            while not self._store.check([self._left]):
                if self._store.add(self._count, 0) == self._size:
                    return True
                if time.monotonic() > end:
                    self._store.set(self._left, "")
                time.sleep(LOOK_EVERY_S / 10)
        except RuntimeError:
            pass
        return False

    def any_failed(self) -> bool:
        """Whether some process failed."""
        return self._store.check([self._first])


def _break_off(news: _News, over: threading.Event) -> None:
    while not over.wait(LOOK_EVERY_S):
        if news.any_failed():
            if not over.wait(2 * PATIENCE_S):
                distributed_c10d._abort_process_group()
            return
