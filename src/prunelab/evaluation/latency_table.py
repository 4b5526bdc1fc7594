"""LatencyTable: milliseconds of single layers on one target, measured on demand and shared between runs."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prunelab.distributed import is_rank_zero
from prunelab.distributed.ranks import from_rank_zero
from prunelab.errors import UserError
from prunelab.evaluation.layer_shapes import BN_RELU, LayerShape
from prunelab.evaluation.programs import layer_program
from prunelab.evaluation.target import Target
from prunelab.evaluation.turns import Clocks, Program, in_turns, threads
from prunelab.records.atomic import set_aside, write_atomically
from prunelab.records.fields import Fields, RecordError
from prunelab.strict_json import loads_strictly

log = logging.getLogger(__name__)

FORMAT = "prunelab latency table 1"
ANCHOR = LayerShape((28, 28), (3, 3), (1, 1), (1, 1), (1, 1), False, 64, 64, 1, BN_RELU)
"""The anchor is timed in turns with every layer. Times in a table are relative to an anchor of ``anchor_ms``."""

SECONDS = 0.04
"""Approximate seconds of all turns of one layer."""

SHORTEST = 0.001
"""Layers and anchors that are faster than this number of seconds are called several times in each turn."""

BETWEEN_WRITES = 20.0
"""Seconds between two writes of new entries."""

MeasureLayer = Callable[[LayerShape], float]


@dataclass
class LatencyTable:
    """Milliseconds of one call of a layer, by its shape.

    Args:
        target: where layers run.
        path: the JSON file; None: the table is not kept.
        anchor_ms: milliseconds of the anchor, which makes times of different runs comparable; None: not measured yet.
        entries: key of a shape -> milliseconds.
        measure: measures a layer; by default on this machine.

    Example:
        >>> table = LatencyTable(Target(), measure=lambda shape: shape.inputs * shape.outputs / 1000)
        >>> table.milliseconds(LayerShape((8, 8), (1, 1), (1, 1), (0, 0), (1, 1), False, 16, 32, 1, ""))
        0.512
    """

    target: Target
    path: Path | None = None
    anchor_ms: float | None = None
    entries: dict[str, float] = field(default_factory=dict)
    measure: MeasureLayer | None = None
    measured: int = 0
    """The number of layers that this object has measured."""

    _anchor: Program | None = field(default=None, repr=False)
    _written: float = field(default_factory=time.monotonic, repr=False)
    _unwritten: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, target: Target) -> LatencyTable:
        """The table of a target on this machine, from the folder ``target.tables`` if it exists.

        Raises:
            UserError: the file belongs to another machine or target.
        """
        if target.tables is None:
            return cls(target)
        path = Path(target.tables).expanduser() / f"{_digest(target)}.json"
        found = from_rank_zero(lambda: read_table(path, target))
        return cls(target, path) if found is None else cls(target, path, *found)

    def milliseconds(self, shape: LayerShape) -> float:
        """The time of a layer; if the table does not contain it, rank zero measures it, and all ranks must make the
        call."""
        key = shape.key
        if key not in self.entries:
            self.entries[key] = from_rank_zero(lambda: (self.measure or self._measured)(shape))
            self.measured += 1
            self._unwritten = True
            if time.monotonic() - self._written > BETWEEN_WRITES:
                self.save()
        return self.entries[key]

    def save(self) -> None:
        """Write the table with the entries that other runs have added in the meantime. Only rank zero writes."""
        if self.path is None or not self._unwritten or not is_rank_zero():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        others = read_table(self.path, self.target)
        entries = {**(others[1] if others else {}), **self.entries}
        content = {
            "format": FORMAT,
            "machine": self.target.machine(),
            "target": self.target.settings(),
            "anchor_ms": self.anchor_ms,
            "entries": dict(sorted(entries.items())),
        }
        write_atomically(self.path, json.dumps(content, indent=1) + "\n")
        self._written, self._unwritten = time.monotonic(), False

    def _measured(self, shape: LayerShape) -> float:
        """Median over turns of (time of the layer) / (time of the anchor), times the milliseconds of the anchor."""
        clocks = Clocks.of(self.target)
        with threads(self.target.threads):
            if self._anchor is None:
                self._anchor = layer_program(ANCHOR, self.target)
            programs = [self._anchor, layer_program(shape, self.target)]
            anchor, layer = in_turns(programs, clocks, SECONDS, (5, 15), SHORTEST)
        if self.anchor_ms is None:
            self.anchor_ms = 1000 * float(np.median(anchor.processor))
        return float(np.median(layer.processor / anchor.processor)) * self.anchor_ms


def read_table(path: Path, target: Target) -> tuple[float | None, dict[str, float]] | None:
    """Milliseconds of the anchor and of all entries in a file; None if there is none.

    A damaged file is renamed, with a warning.

    Raises:
        UserError: the file belongs to another machine or target, or it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"The latency table {path} cannot be read: {error.strerror}.") from error
    try:
        fields = Fields(loads_strictly(text))
        if fields.text("format") != FORMAT:
            raise RecordError(f"format should be {FORMAT!r}")
        machine, settings = fields.texts_by_name("machine"), fields.mapping("target")
        entries = fields.nested("entries")
        found = {name: entries.number(name) for name in entries.names()}
        anchor = fields.number_or_none("anchor_ms")
    except ValueError as error:
        log.warning(
            "The latency table %s is damaged (%s). It was renamed to %s; layers are measured again.",
            path, error, set_aside(path).name,
        )  # fmt: skip
        return None
    _require_same(path, "machine", machine, target.machine())
    _require_same(path, "target", settings, target.settings())
    return anchor, found


def _require_same(path: Path, what: str, found: Mapping[str, object], wanted: Mapping[str, object]) -> None:
    differing = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if differing:
        name = differing[0]
        raise UserError(
            f"The latency table {path} was measured on another {what}: its {name} is {found.get(name)!r}, here it is "
            f"{wanted.get(name)!r}. Move the file elsewhere or choose another folder, budget.target.tables=FOLDER."
        )


def _digest(target: Target) -> str:
    """The name of the file: one for each machine and target."""
    text = json.dumps([target.machine(), target.settings()], sort_keys=True)
    return f"{target.runtime}-{target.precision}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
