"""The exception for mistakes of users."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An input or a setting is wrong. The message states what was wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with 1.

    Example:
        >>> prunelab.Budget(flops=2.0)
        Traceback (most recent call last):
            ...
        prunelab.errors.UserError: budget.flops=2.0 is not a fraction to keep: ...
    """


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """A closing sentence that offers the names nearest to ``name`` ("Did you mean 'fpgm'?"), or all of them if few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    if len(known) <= 30:
        return "Known: " + ", ".join(known) + "."
    return f"{len(known)} names are known."
