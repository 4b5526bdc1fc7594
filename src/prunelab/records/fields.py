"""Checked access to the fields of JSON from untrusted files; every error names the field."""

from __future__ import annotations

from typing import Any, NoReturn

LARGEST = 2**63 - 1


class RecordError(ValueError):
    """A record or failure does not match its schema; the message names the field and what is wrong with it."""


class Fields:
    """The fields of one JSON object.

    Every getter takes the name of a required field and raises ``RecordError`` if the field is missing or has another
    type. ``path`` is the position of the object in the file (``"baseline"``).
    """

    def __init__(self, values: Any, path: str = "") -> None:
        if not isinstance(values, dict):
            raise RecordError(f"{path or 'the file'} should be a JSON object, found {_shortened(values)}")
        self._values = values
        self._path = path

    def text(self, name: str) -> str:
        value = self._get(name)
        if not isinstance(value, str):
            self._wrong(name, "text", value)
        return value

    def text_or_none(self, name: str) -> str | None:
        return None if self._get(name) is None else self.text(name)

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            self._wrong(name, "a list of texts", value)
        return tuple(value)

    def integers(self, name: str) -> tuple[int, ...]:
        value = self._get(name)
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            self._wrong(name, "a list of whole numbers", value)
        return tuple(value)

    def flag(self, name: str) -> bool:
        value = self._get(name)
        if not isinstance(value, bool):
            self._wrong(name, "true or false", value)
        return value

    def integer(self, name: str) -> int:
        """A whole number, zero or more, of at most 63 bits."""
        value = self._get(name)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LARGEST:
            self._wrong(name, "a whole number, 0 or more", value)
        return value

    def number(self, name: str) -> float:
        """A finite number, zero or more."""
        value = self._get(name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value <= LARGEST:  # false for NaN too
            self._wrong(name, "a finite number, 0 or more", value)
        return float(value)

    def number_or_none(self, name: str) -> float | None:
        return None if self._get(name) is None else self.number(name)

    def fraction(self, name: str) -> float:
        """A number in [0, 1]."""
        value = self.number(name)
        if value > 1:
            self._wrong(name, "a fraction in [0, 1]", value)
        return value

    def fraction_or_none(self, name: str) -> float | None:
        return None if self._get(name) is None else self.fraction(name)

    def nested_or_none(self, name: str) -> Fields | None:
        """The JSON object in the field ``name``; None if the field is null or missing (records of earlier versions)."""
        return None if self._values.get(name) is None else self.nested(name)

    def nested(self, name: str) -> Fields:
        """The fields of the JSON object in the field ``name``."""
        return Fields(self._get(name), self._where(name))

    def nested_list(self, name: str) -> tuple[Fields, ...]:
        """The JSON objects in the list ``name``, each to be read in its turn."""
        value = self._get(name)
        if not isinstance(value, list):
            self._wrong(name, "a list", value)
        return tuple(Fields(each, f"{self._where(name)}[{place}]") for place, each in enumerate(value))

    def texts_by_name(self, name: str) -> dict[str, str]:
        """The JSON object in the field ``name``, all of whose values are texts."""
        nested = self.nested(name)
        return {each: nested.text(each) for each in nested.names()}

    def has(self, name: str) -> bool:
        """Whether the field exists; records of earlier versions lack some."""
        return name in self._values

    def mapping(self, name: str) -> dict[str, Any]:
        """The JSON object in the field ``name``; its values are not checked."""
        return dict(self.nested(name)._values)

    def names(self) -> tuple[str, ...]:
        """The names of the fields."""
        return tuple(self._values)

    def _get(self, name: str) -> Any:
        if name not in self._values:
            raise RecordError(f"{self._where(name)} is missing")
        return self._values[name]

    def _wrong(self, name: str, wanted: str, found: Any) -> NoReturn:
        raise RecordError(f"{self._where(name)} should be {wanted}, found {_shortened(found)}")

    def _where(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
