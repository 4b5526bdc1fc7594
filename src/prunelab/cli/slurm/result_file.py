"""Reading the result that submitit pickles at the end of a job, restricted to the classes that such a result has."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

from prunelab.cli.summary import Job


def _dataclasses(kind: Any) -> Iterator[type]:
    """``kind`` if it is a dataclass, and the dataclasses in the types of its fields, at any depth."""
    if is_dataclass(kind) and isinstance(kind, type):
        yield kind
        for each in get_type_hints(kind).values():
            yield from _dataclasses(each)
    for argument in get_args(kind):
        yield from _dataclasses(argument)


CLASSES = {(found.__module__, found.__qualname__): found for found in (type(Path()), *_dataclasses(Job))}
"""The classes of a Job and of the record in it, all of which are plain dataclasses."""


def read_result(file: Path) -> tuple[str, Any]:
    """("success", Job) or ("error", text of a traceback), as submitit stored it.

    The folder of a study may be untrusted, so no other class or function is imported.

    Raises:
        FileNotFoundError: the job has not ended.
        pickle.UnpicklingError: the file is damaged, or contains anything else.
    """
    content = file.read_bytes()
    try:
        ending, value = _Restricted(io.BytesIO(content)).load()
    except (EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        raise pickle.UnpicklingError(f"damaged: {error}") from error
    if (ending, type(value)) not in (("success", Job), ("error", str)):
        raise pickle.UnpicklingError("not the result of a job")
    return ending, value


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # pathlib moved its classes in Python 3.13.
        found = CLASSES.get((module, name)) or (
            type(Path()) if (module, name) == ("pathlib", "PosixPath") else None
        )
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a result")
        return found
