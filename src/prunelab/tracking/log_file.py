"""A file of what prunelab says while something is done."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _LogFile(logging.FileHandler):
    """Leaves out what cannot be written: on a full disk the user needs one message, not one for every line."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def writing_log(file: Path) -> Iterator[None]:
    """Append the messages of prunelab's loggers to ``file``, with those that the terminal does not show."""
    handler = _LogFile(file, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("prunelab")
    level = logger.level
    logger.setLevel(logging.DEBUG)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        handler.close()
