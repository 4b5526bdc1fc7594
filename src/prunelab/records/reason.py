"""Why something failed, in the words that are shown and kept."""

from __future__ import annotations

import errno
import os

from prunelab.errors import UserError


def reason(error: BaseException) -> str:
    """What to tell the user about ``error``, in one message."""
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
    return (
        f"Unexpected {type(error).__name__}: {_first_line(error)} "
        "This is a fault of prunelab, not yours; --traceback shows where it arose."
    )


def _disk_is_full(error: BaseException) -> bool:
    """Libraries that write files in another language hand on the system's text alone."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return full or os.strerror(errno.ENOSPC) in str(error)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or "no further word."
