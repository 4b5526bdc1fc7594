"""Files that are either there as a whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

PARTIAL = ".partial"
"""How the names of temporary files end; only a killed process leaves one behind."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` so that no reader, and no crash, ever sees a part of it.

    The bytes go into a temporary file of the same folder, reach the disk, and only then take the name
    ``path``. Raises OSError (full disk, no permission); the temporary file is removed and an older ``path``
    is untouched.
    """
    data = content.encode() if isinstance(content, str) else content
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, 0o666 & ~_umask())
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_partial_files(folder: Path) -> None:
    """Remove what killed processes were writing below ``folder``, in which no other process may be at work."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink()


def _umask() -> int:
    """The process's mask, which ``mkstemp`` ignores: its files only their owner can read."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the new name itself survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
