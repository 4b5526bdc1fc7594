"""JSON from untrusted files: unique keys, limited depth."""

from __future__ import annotations

import json
from typing import Any


class DuplicateKey(ValueError):
    """An object has the same key twice; programs use different ones of the values."""


def loads_strictly(text: str) -> Any:
    """``json.loads`` for untrusted text.

    Raises:
        DuplicateKey: an object has a key twice.
        ValueError: not valid JSON, or nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise DuplicateKey(f"the key {name!r} occurs twice in one object")
        found[name] = value
    return found
