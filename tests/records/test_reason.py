"""What users are told about an error."""

from __future__ import annotations

import errno
import os

import pytest

from prunelab.errors import UserError
from prunelab.records.reason import reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UserError("Say it so."), "Say it so."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "The disk is full. Free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "The disk is full."),
        (PermissionError(errno.EACCES, "Permission denied", "here"), "here: Permission denied."),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "A smaller data.batch_size"),
        (ZeroDivisionError("division by zero"), "Unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_the_reason(error: Exception, said: str) -> None:
    assert said in reason(error)
