"""The message for a user about an error."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from prunelab.errors import UserError
from prunelab.records.reason import reason


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (UserError("Say it so."), "Say it so."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "The disk is full. Free some space"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "The disk is full."),
        (PermissionError(errno.EACCES, "Permission denied", "here"), "here: Permission denied."),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "A smaller data.batch_size"),
        (ZeroDivisionError("division by zero"), "Unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_the_reason(error: Exception, message: str) -> None:
    assert message in reason(error)


def raised_in(tmp_path: Path, source: str) -> BaseException:
    """The exception of calling ``broken`` in a user's file with this source."""
    file = tmp_path / "mine.py"
    file.write_text(source)
    names: dict[str, Any] = {}
    exec(compile(source, str(file), "exec"), names)
    with pytest.raises(Exception) as caught:
        names["broken"]()
    return caught.value


def test_an_exception_in_a_file_of_the_user_is_the_users(tmp_path: Path) -> None:
    error = raised_in(tmp_path, "def broken():\n    return 1 / 0\n")
    message = reason(error)
    assert "mine.py, line 2: ZeroDivisionError: division by zero" in message
    assert "fault of prunelab" not in message


def test_so_is_one_that_a_library_raises_when_the_user_calls_it(tmp_path: Path) -> None:
    source = "import json\n\ndef broken():\n    return json.loads('{')\n"
    assert "mine.py, line 4: JSONDecodeError" in reason(raised_in(tmp_path, source))


def test_one_that_prunelab_raises_when_the_user_calls_it_is_not(tmp_path: Path) -> None:
    source = "from prunelab.errors import nearest\n\ndef broken():\n    return nearest('a', None)\n"
    assert "fault of prunelab" in reason(raised_in(tmp_path, source))
