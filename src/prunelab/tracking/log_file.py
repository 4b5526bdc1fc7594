"""A file with the messages of prunelab's loggers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _LogFile(logging.FileHandler):
    """Ignores lines that cannot be written, so that a full disk causes one message instead of one per line."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


@contextmanager
def writing_log(file: Path) -> Iterator[None]:
    """Append the messages of prunelab's loggers to ``file``, including those that the terminal does not show."""
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
