"""The message for an exception: shown to the user, and kept in the record of a failed run."""

from __future__ import annotations

import errno
import os
import sysconfig
import traceback
from pathlib import Path

from prunelab.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
LIBRARIES = tuple(
    Path(path).resolve()
    for name, path in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def reason(error: BaseException) -> str:
    """The message for ``error``: one paragraph, without a traceback."""
    if isinstance(error, UserError):
        return str(error)
    if _disk_is_full(error):
        return "The disk is full. Free some space, or choose another folder with outputs=FOLDER."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    if "out of memory" in str(error).lower():
        return (
            f"Out of memory: {_first_line(error)} A smaller data.batch_size or data.eval_batch_size may help."
        )
    if (place := _users_place(error)) is not None:
        return f"In {place}: {type(error).__name__}: {_first_line(error)} --traceback shows the calls."
    return (
        f"Unexpected {type(error).__name__}: {_first_line(error)} "
        "This is a fault of prunelab; --traceback shows where it was raised."
    )


def _users_place(error: BaseException) -> str | None:
    """ "FILE, line N" if the innermost frame outside of libraries belongs to a file of the user, else None."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if frame.filename.startswith("<"):  # <string>, <frozen importlib>, generated code
            continue
        resolved = path.resolve()
        if resolved.is_relative_to(PACKAGE):
            return None
        if not any(resolved.is_relative_to(library) for library in LIBRARIES):
            return f"{_shortest(resolved)}, line {frame.lineno}"
    return None


def _shortest(path: Path) -> str:
    """``path`` relative to the working directory if it is inside, else as it is."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _disk_is_full(error: BaseException) -> bool:
    """Whether the disk is full; libraries in other languages only pass the text of the system error."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or os.strerror(errno.ENOSPC) in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or "without a message."
