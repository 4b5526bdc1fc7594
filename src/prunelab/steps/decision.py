"""What a round of a run decided, kept so that an interrupted run does not decide again."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from prunelab.errors import UserError
from prunelab.records.atomic import write_atomically
from prunelab.records.fields import Fields, RecordError
from prunelab.structure import PruningPlan

DECISION_FILE = "decision.json"


@dataclass(frozen=True)
class Decision:
    """A plan, the weights that it was decided for (their fingerprint), and the seconds that deciding took."""

    plan: PruningPlan
    weights: str
    seconds: float


@dataclass(frozen=True)
class RoundFolder:
    """The folder of one round, with its decision and the checkpoints of the training that follows it."""

    path: Path

    def decision(self, weights: str) -> Decision | None:
        """The decision that was taken for these very weights, if there is one."""
        try:
            fields = Fields(json.loads((self.path / DECISION_FILE).read_text()))
            plan = PruningPlan.from_json(json.dumps(fields.mapping("plan")))
            decision = Decision(plan, fields.text("weights"), fields.number("seconds"))
        except (FileNotFoundError, ValueError, RecordError, UserError):
            return None  # not decided yet, or by another version of prunelab
        return decision if decision.weights == weights else None

    def learning(self, weights: str) -> Path:
        """Where the training lies in which a method learns, from these very weights, before it decides."""
        return self.path.with_name(f"{self.path.name}-learning-{weights[:12]}")

    def search(self, weights: str) -> Path:
        """The folder of a search over networks pruned from these weights: its state and its candidates."""
        return self.path.with_name(f"{self.path.name}-search-{weights[:12]}")

    def decide(self, decision: Decision) -> None:
        """Keep a new decision; checkpoints of an older one are of no use any more, and go first."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        content = {
            "weights": decision.weights,
            "seconds": decision.seconds,
            "plan": json.loads(decision.plan.to_json()),
        }
        write_atomically(self.path / DECISION_FILE, json.dumps(content))


def fingerprint(network: nn.Module) -> str:
    """SHA-256 of all weights and buffers by name: equal networks, equal fingerprints."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
