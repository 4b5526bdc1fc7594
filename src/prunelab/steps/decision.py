"""The plan of a round, stored so that a resumed run does not decide again."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.records.atomic import Write, set_aside, write_atomically
from prunelab.records.fields import Fields, RecordError
from prunelab.records.latency import LatencySummary
from prunelab.strict_json import loads_strictly
from prunelab.structure import PruningPlan

DECISION_FILE = "decision.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Decision:
    """A plan, the fingerprint of the weights for which it was decided, and the seconds of the decision.

    ``latency``: the measurements under a latency budget.
    """

    plan: PruningPlan
    weights: str
    seconds: float
    latency: LatencySummary | None = None


@dataclass(frozen=True)
class RoundFolder:
    """The folder of one round, for its decision and its checkpoints. ``write`` writes the decision."""

    path: Path
    write: Write = field(default=write_atomically)

    def decision(self, weights: str) -> Decision | None:
        """The stored decision for exactly these weights, or None.

        A damaged file (unreadable, or with a digest that does not match) is set aside with a warning.
        """
        file = self.path / DECISION_FILE
        try:
            decision = _parsed(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (ValueError, RecordError, UserError) as error:
            log.warning(
                "The decision %s is damaged (%s). It was renamed to %s; the round decides again.",
                file,
                error,
                set_aside(file).name,
            )
            return None
        return decision if decision.weights == weights else None

    def learning(self, weights: str) -> Path:
        """The folder of the training in which a method learns, starting from exactly these weights."""
        return self.path.with_name(f"{self.path.name}-learning-{weights[:12]}")

    def search(self, weights: str) -> Path:
        """The folder of a search over networks pruned from these weights: its state and its candidates."""
        return self.path.with_name(f"{self.path.name}-search-{weights[:12]}")

    def recovery(self, decision: Decision) -> Path:
        """The folder of the training that follows exactly this decision."""
        return self.path / f"{decision.weights[:12]}-{decision.plan.digest()[:12]}"

    def decide(self, decision: Decision) -> None:
        """Store a new decision."""
        self.path.mkdir(parents=True, exist_ok=True)
        content = {
            "weights": decision.weights,
            "seconds": decision.seconds,
            "plan": json.loads(decision.plan.to_json()),
            **({} if decision.latency is None else {"latency": asdict(decision.latency)}),
        }
        self.write(self.path / DECISION_FILE, sealed(content))


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of names, shapes, types and values of all weights and buffers."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _parsed(text: str) -> Decision:
    """The decision in the text of a file. Raises ValueError, RecordError or UserError if it is damaged."""
    fields = opened(text)
    plan = PruningPlan.from_json(json.dumps(fields.mapping("plan")))
    latency = fields.nested_or_none("latency")
    measured = None if latency is None else LatencySummary.from_fields(latency)
    return Decision(plan, fields.text("weights"), fields.number("seconds"), measured)


def sealed(content: dict[str, Any]) -> str:
    """``content`` as JSON with its digest."""
    return json.dumps({**content, "sha256": _digest(content)})


def opened(text: str) -> Fields:
    """The fields of a ``sealed`` text. Raises ValueError or RecordError if it was changed."""
    content = loads_strictly(text)
    fields = Fields(content)
    if fields.text("sha256") != _digest({name: value for name, value in content.items() if name != "sha256"}):
        raise RecordError("its content does not match its digest")
    return fields


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
