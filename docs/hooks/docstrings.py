"""Adapts docstrings for mkdocstrings: ``::`` before an example becomes a colon, ``Example:`` becomes ``Examples:``."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Docstrings(griffe.Extension):
    """An extension that mkdocstrings calls while it reads the source."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called after an object was read."""
        if obj.docstring is not None:
            text = re.sub(r"(?m)::$", ":", obj.docstring.value)
            obj.docstring.value = re.sub(r"(?m)^( *)Example:$", r"\1Examples:", text)
