"""The digest that a JSON file holds of its own content: an edited or damaged value is noticed when the file is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from prunelab.records.fields import RecordError

FIELD = "digest"


def with_digest(content: Mapping[str, Any], field: str = FIELD) -> dict[str, Any]:
    """The JSON object ``content`` with the digest of all its other values in ``field``."""
    return {**content, field: _digest(content, field)}


def check_digest(content: Any, field: str = FIELD) -> None:
    """Compare the digest in ``content`` with its values. Files of earlier versions have none and are accepted.

    Raises:
        RecordError: they do not match.
    """
    if isinstance(content, Mapping) and field in content and content[field] != _digest(content, field):
        raise RecordError(
            f"its values do not match their digest: a value was edited or damaged after the file was written "
            f"(restore the file, or remove the field {field!r} if the change is intended)"
        )


def _digest(content: Mapping[str, Any], field: str) -> str:
    """SHA-256 of all values but ``field``; it depends neither on the order of the keys nor on the white space."""
    rest = {name: value for name, value in content.items() if name != field}
    as_read = json.loads(
        json.dumps(rest)
    )  # with texts as keys, which are sorted in another order than numbers
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()
