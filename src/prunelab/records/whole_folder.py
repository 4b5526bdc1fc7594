"""A folder of results that is complete or absent."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from prunelab.records.atomic import PARTIAL, write_atomically


def write_folder(path: Path, contents: Mapping[str, str | bytes], check: Callable[[], None]) -> None:
    """Write all files of the folder ``path``, which replaces an earlier one as a whole.

    The files are written into a temporary folder beside ``path``, which is then renamed. If an error occurs (full disk,
    interruption), the temporary folder is removed and the earlier folder is unchanged.

    Args:
        contents: name of each file -> its content.
        check: is called immediately before the renaming; may raise.
    """
    for left in path.parent.glob(f".{path.name}.*{PARTIAL}"):  # of a killed process
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        for name, content in contents.items():
            write_atomically(new / name, content)
        check()
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
