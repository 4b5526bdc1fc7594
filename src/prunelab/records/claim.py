"""Only one process at a time may work in a folder; the others wait for it, on this machine and on others."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

LOCK_FILE = ".lock"
LEASE_FILE = ".lease"
LEASE_S = 60.0
"""Who holds a folder says so three times in so many seconds; who has been silent for so long holds it no more."""

POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` for this process; if another one holds it, say so (``what`` is it about) and wait.

    A claim is two things, and ends with the process that holds it, however that ends:

    - a lock of the operating system on a file inside, which is free at once when its process is gone. NFS carries it
      from one machine to another; but some file systems of clusters (Lustre and BeeGFS, as often mounted) keep it to
      themselves, and say nothing;
    - so also a lease: a file that its holder touches again and again. Of a dead process of this machine it is taken
      over at once, of one on another machine after ``LEASE_S`` seconds of silence.

    The empty lock file stays behind.
    """
    lock = FileLock(folder / LOCK_FILE)
    lease = SoftFileLease(
        folder / LEASE_FILE, lease_duration=LEASE_S, on_compromise=lambda _: _warn_of_loss(what)
    )
    with (
        _held(lock, f"Another process is at work on {what}: waiting for it."),
        _held(
            lease,
            f"A process on another machine is at work on {what}, or was until a minute ago: waiting for it.",
        ),
    ):
        yield


@contextmanager
def _held(lock: BaseFileLock, message: str) -> Iterator[None]:
    """Hold ``lock``; say ``message`` if that means to wait."""
    try:
        lock.acquire(timeout=2 * POLL_SECONDS, poll_interval=POLL_SECONDS)
    except Timeout:
        log.info(message)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _warn_of_loss(what: str) -> None:
    """Said by the thread that renews the lease. What both do is the same, and files appear whole: nothing is spoilt."""
    log.warning("This process was silent for so long that another one may be at work on %s too.", what)
