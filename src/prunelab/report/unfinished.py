"""The identity of a run without a record, from its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from prunelab.records.fields import Fields, RecordError
from prunelab.records.known_keys import RESOURCES


@dataclass(frozen=True)
class Intention:
    """The identity of an unfinished run. ``keep`` maps each limited resource to the fraction of it to keep."""

    method: str
    model: str
    data: str
    seed: int
    levels: tuple[str, ...]
    keep: dict[str, float]


def read_intention(path: Path) -> Intention | None:
    """The identity of the run with this ``config.yaml``, or None if the file cannot be read or is incomplete."""
    try:
        fields = Fields(yaml.safe_load(path.read_text(encoding="utf-8")))
        names, budget = fields.nested("names"), fields.nested("budget")
        limits = {name: budget.fraction_or_none(name) for name in RESOURCES if budget.has(name)}
        return Intention(
            method=names.text("method"),
            model=names.text("model"),
            data=names.text("data"),
            seed=fields.integer("seed"),
            levels=fields.texts("levels"),
            keep={resource: limit for resource, limit in limits.items() if limit is not None},
        )
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecordError):
        return None
