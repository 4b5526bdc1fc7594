"""Exclusive use of a folder by one process, on one machine or on several that share a file system."""

from __future__ import annotations

import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from prunelab.errors import UserError
from prunelab.records.atomic import write_atomically, write_once

LOCK_FILE = ".lock"
LEASE_FILE = ".lease"
LEASE_S = 60.0
"""A lease is renewed every third of this time, and expires when it was not renewed for this time."""

POLL_SECONDS = 0.2
WAIT_SECONDS = 2.0
"""Interval at which a waiting process checks for an empty lease file."""

CHECKS = 5
"""A lease file can be exchanged for a moment while another process tries to take it over."""

log = logging.getLogger(__name__)


class ClaimLost(UserError):
    """Another process took over the folder, because the lease of this one had expired."""


@dataclass(frozen=True)
class Claim:
    """The right of this process to write in a folder.

    Every file that belongs to a result is written through ``write`` or ``write_once``. Both compare the token of the
    lease with the one in the lease file (a fencing token) immediately before the file gets its name. A process that was
    suspended for longer than ``LEASE_S`` therefore cannot replace files of its successor.

    Attributes:
        what: the run or baseline, for messages.
        token: identifies this hold of the lease; None on ranks other than zero, which do not write.
        owner: returns the token that is in the lease file, None if there is none.
    """

    what: str
    token: str | None = None
    owner: Callable[[], str | None] = lambda: None

    def check(self) -> None:
        """Raise ClaimLost unless the lease file still holds the token of this claim."""
        if self.token is None:
            raise RuntimeError(f"only rank zero writes the results of {self.what}")
        for attempt in range(CHECKS):
            if self.owner() == self.token:
                return
            if attempt + 1 < CHECKS:
                time.sleep(POLL_SECONDS / 2)
        raise ClaimLost(
            f"Another process has taken over {self.what}: this one did not renew its lease for {LEASE_S:.0f} s "
            "(suspended, or the file system did not respond). This process stops without writing; the other one "
            "continues the work."
        )

    def write(self, path: Path, content: str | bytes) -> None:
        """``write_atomically`` under this claim. Raises ClaimLost; ``path`` is unchanged then."""
        write_atomically(path, content, self.check)

    def write_once(self, path: Path, content: str | bytes) -> None:
        """``write_once`` under this claim. Raises ClaimLost, or FileExistsError if ``path`` exists."""
        write_once(path, content, self.check)


@contextmanager
def claimed(folder: Path, what: str) -> Iterator[Claim]:
    """Claim ``folder`` for this process. If another process holds it, log a message about ``what`` and wait.

    A claim consists of two locks. Both end with the process that holds them, also if it is killed:

    - an operating system lock on a file in the folder, which is free as soon as its process has ended. NFS shares it
      between machines, but some cluster file systems (Lustre and BeeGFS, as often mounted) keep it local to each
      machine without an error;
    - therefore also a lease: a file that its holder touches periodically. The lease of a dead process of this machine
      is taken over at once, that of a process on another machine ``LEASE_S`` seconds after its last renewal. The same
      applies to an empty lease file, which remains if a process is killed between creating and writing it.

    The empty lock file remains.
    """
    lease_file = folder / LEASE_FILE
    lease = SoftFileLease(lease_file, lease_duration=LEASE_S, on_compromise=lambda _: _warn_of_loss(what))
    with (
        _held(FileLock(folder / LOCK_FILE), f"Another process is working on {what}: waiting for it."),
        _held(
            lease,
            f"A process on another machine is working on {what}, or worked on it until a minute ago: waiting for it.",
            lambda: _remove_empty(lease_file),
        ),
    ):
        yield Claim(what, lease.token, lambda: None if (owner := lease.owner) is None else owner.token)


@contextmanager
def _held(lock: BaseFileLock, message: str, clear: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold ``lock``. If another process has it, log ``message`` and wait; ``clear`` is called before each attempt."""
    patience = 2 * POLL_SECONDS
    while True:
        clear()
        try:
            lock.acquire(timeout=patience, poll_interval=POLL_SECONDS)
            break
        except Timeout:
            if patience < WAIT_SECONDS:
                log.info(message)
            patience = WAIT_SECONDS
    try:
        yield
    finally:
        lock.release()


def _remove_empty(lease: Path) -> None:
    """Remove the lease file if it is empty and older than ``LEASE_S``; filelock treats it as a file of an old
    version."""
    try:
        found = lease.lstat()
        if found.st_size or _now(lease.parent) - found.st_mtime < LEASE_S:
            return
        aside = lease.with_name(f"{lease.name}.{secrets.token_hex(8)}")
        lease.rename(aside)  # succeeds in only one of several waiting processes
    except FileNotFoundError:
        return
    if aside.lstat().st_ino != found.st_ino:  # another process wrote a new lease in the meantime
        os.link(aside, lease)
    aside.unlink()


def _now(folder: Path) -> float:
    """The time by the clock of the file system of ``folder``, which can differ from that of this machine."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"0")
        probe.flush()
        return os.fstat(probe.fileno()).st_mtime


def _warn_of_loss(what: str) -> None:
    """Called by the thread that renews the lease; the next write raises ClaimLost."""
    log.warning("The lease on %s expired; another process may have taken it over.", what)
