"""Atomic writes: a file has its old content or its new content, never a part of it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of temporary files; only a killed process leaves one behind."""

DAMAGED = ".damaged"
"""Suffix of files that were found damaged and are kept for inspection."""

Write = Callable[[Path, str | bytes], None]
"""Writes a file as a whole: ``write_atomically``, or the ``write`` of a claim, which also checks the claim."""


def write_atomically(path: Path, content: str | bytes, check: Callable[[], None] | None = None) -> None:
    """Write ``content`` to ``path``, so that neither a reader nor a crash leaves or sees a part of it.

    The bytes are written to a temporary file in the same folder and flushed to disk; then the file is renamed to
    ``path``. ``check`` is called immediately before that. If it raises, or on OSError (full disk, no permission), the
    temporary file is removed and an existing ``path`` is unchanged.
    """
    temporary = _written(path, content)
    try:
        if check is not None:
            check()
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_once(path: Path, content: str | bytes, check: Callable[[], None] | None = None) -> None:
    """Like ``write_atomically``, but never replaces a file. Raises FileExistsError if there is one."""
    temporary = _written(path, content)
    try:
        if check is not None:
            check()
        _link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder so that it is no longer used; returns its new path."""
    number, aside = 1, path.with_name(f"{path.name}{DAMAGED}")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}{DAMAGED}-{number}")
    return path.rename(aside)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files and folders of killed processes below ``folder``. No other process may write there."""
    for partial in [*folder.rglob(f"*{PARTIAL}")]:
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)  # it was inside such a folder


def _written(path: Path, content: str | bytes) -> Path:
    """A temporary file in the folder of ``path`` with this content, flushed to disk."""
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~_umask())
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _link(temporary: Path, path: Path) -> None:
    """Give a file the name ``path`` if no file has it."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if path.exists():  # not atomic on a file system without hard links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)


def _umask() -> int:
    """The umask of the process. ``mkstemp`` does not apply it: its files can be read by their owner only."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Flush the directory entry, so that the name also survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
