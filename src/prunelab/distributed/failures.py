"""Failure propagation: an exception on one rank ends the work on all ranks within seconds."""

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

GRACE_S = 3.0
"""Seconds that a failed rank waits for the others to fail too. If all fail, the process group remains usable."""

POLL_S = 1.0
"""Interval at which the NCCL watcher thread reads the store."""

log = logging.getLogger(__name__)


def fail_on_all_ranks(work: Callable[[], Result]) -> Result:
    """Call ``work``, which contains collective operations, on every rank; if it fails on one rank, it fails on all.

    ``on_all_ranks`` is not sufficient for this: after a failure in the middle of ``work`` the other ranks can be
    blocked in any collective operation. The failed rank writes its error into the store of the process group and
    leaves the group. With gloo this aborts the blocked operations; with NCCL, where they would block forever, a
    watcher thread on each rank polls the store and aborts the group.

    Raises:
        RankFailure: ``work`` failed on some rank. Unless it failed on all of them, the process group is destroyed.
    """
    if world()[1] == 1:
        return work()
    board = _FailureBoard(distributed_c10d._get_default_store())
    finished = threading.Event()
    if dist.get_backend() == dist.Backend.NCCL:
        threading.Thread(target=_abort_on_failure, args=(board, finished), daemon=True).start()
    try:
        return work()
    except RankFailure:
        raise
    except Exception as error:
        log.debug("This rank failed.", exc_info=True)
        message = board.post(described(error))
        if not board.all_failed():
            traceback.clear_frames(error.__traceback__)  # its frames reference the connections
            leave()
            gc.collect()
        raise RankFailure(message) from error
    finally:
        finished.set()


class _FailureBoard:
    """The failures of all ranks during one call, in the key-value store of the process group."""

    def __init__(self, store: dist.Store) -> None:
        self._store = store
        self._rank, self._size = world()
        call = store.add(f"prunelab/calls/{self._rank}", 1)  # the number of calls is the same on all ranks
        self._first, self._count, self._left = (
            f"prunelab/{call}/{name}" for name in ("first", "count", "left")
        )

    def post(self, failure: str) -> str:
        """Record the failure of this rank; returns the message of the rank that failed first."""
        try:
            first = self._store.compare_set(self._first, "", f"rank {self._rank}: {failure}").decode()
            self._store.add(self._count, 1)
        except RuntimeError:  # the rank that hosts the store has ended
            return f"rank {self._rank}: {failure}"
        return first.partition(": ")[2] if self.all_failed() else first

    def all_failed(self) -> bool:
        """Whether all ranks failed within ``GRACE_S`` seconds, so that none is blocked in an operation."""
        end = time.monotonic() + GRACE_S
        try:
            while not self._store.check([self._left]):
                if self._store.add(self._count, 0) == self._size:
                    return True
                if time.monotonic() > end:
                    self._store.set(self._left, "")
                time.sleep(POLL_S / 10)
        except RuntimeError:  # the rank that hosts the store has ended
            pass
        return False

    def any_failed(self) -> bool:
        """Whether at least one rank failed."""
        return self._store.check([self._first])


def _abort_on_failure(board: _FailureBoard, finished: threading.Event) -> None:
    """Abort the process group if a rank failed and this one does not return from ``work``. Runs in a thread."""
    while not finished.wait(POLL_S):
        if board.any_failed():
            if not finished.wait(2 * GRACE_S):
                distributed_c10d._abort_process_group()
            return
