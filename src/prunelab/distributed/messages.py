"""Messages that are shown once for all processes of a run."""

from __future__ import annotations

import logging
import warnings

from prunelab.distributed.ranks import world

log = logging.getLogger("prunelab")


def info(message: str) -> None:
    """Log ``message`` at level INFO, only on rank zero."""
    if world()[0] == 0:
        log.info(message)


def warn(message: str) -> None:
    """Warn (UserWarning), only on rank zero."""
    if world()[0] == 0:
        warnings.warn(message, UserWarning, stacklevel=3)


def show_info() -> None:
    """Show messages of level INFO on stderr, unless the program has configured logging itself."""
    if not log.hasHandlers():
        log.addHandler(logging.StreamHandler())
    if log.level == logging.NOTSET:
        log.setLevel(logging.INFO)
