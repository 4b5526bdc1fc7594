"""The exception for mistakes of users."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_WORD = 500
LONGEST_MESSAGE = 20_000
"""Numbers of characters; the middle of anything longer is left out of a message."""


class UserError(Exception):
    """An input or a setting is wrong. The message states what was wrong, where, and what to do.

    The command line prints the message alone (no traceback) and exits with 1. Names and values of any length can be
    quoted in it: long ones are shortened.

    Example:
        >>> prunelab.Budget(flops=2.0)
        Traceback (most recent call last):
            ...
        prunelab.errors.UserError: budget.flops=2.0 is not a fraction to keep: ...
    """

    def __init__(self, message: object = "") -> None:
        words = re.sub(r"\S+", lambda word: _shortened(word[0], LONGEST_WORD), str(message))
        super().__init__(_shortened(words, LONGEST_MESSAGE))


def nearest(name: str, known: Iterable[str], most: int = 3) -> str:
    """A closing sentence that offers the names nearest to ``name`` ("Did you mean 'fpgm'?"), or all of them if few."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(repr(candidate) for candidate in close) + "?"
    if len(known) <= 30:
        return "Known: " + ", ".join(known) + "."
    return f"{len(known)} names are known."


def _shortened(text: str, longest: int) -> str:
    """``text``, without its middle if it is longer."""
    if len(text) <= longest:
        return text
    part = longest // 3
    return f"{text[:part]}...({len(text) - 2 * part} characters)...{text[-part:]}"
