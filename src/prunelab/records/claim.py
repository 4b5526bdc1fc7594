"""Only one process at a time may work in a folder; the others wait for it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".lock"
POLL_SECONDS = 0.2

log = logging.getLogger(__name__)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` for this process; if another one holds it, say so (``what`` is it about) and wait.

    The claim is a lock of the operating system on a file inside: it ends with the process that holds it,
    however that ends, and counts on every machine that shares the file system. The empty lock file stays
    behind.
    """
    lock = FileLock(folder / LOCK_FILE)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        log.info("Another process is at work on %s: waiting for it.", what)
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()
