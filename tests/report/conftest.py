"""Small studies: records whose means and deviations can be computed by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

Values = dict[str, Any]


def network(top1: float, flops: int, milliseconds: tuple[float, float], top5: float | None = 0.99) -> Values:
    return {
        "top1": top1,
        "top5": top5,
        "flops": flops,
        "macs": flops // 2,
        "params": flops // 100,
        "latency_ms": {"1": milliseconds[0], "64": milliseconds[1]},
    }


def identity(method: str, seed: int, keep: float) -> Values:
    """The common fields of the record and the failure of a run."""
    return {
        "schema": 1,
        "key": f"{method}-{keep}-{seed}",
        "study": "demo",
        "method": method,
        "model": "resnet20",
        "data": "digits",
        "seed": seed,
        "levels": ["filter"],
        "budget": {"resource": "flops", "keep": keep, "reached": keep, "allocation": "global", "divisor": 1},
        "recipe": "one_shot",
    }


def record(method: str = "l1", seed: int = 0, keep: float = 0.5, top1: float = 0.9, **changes: Any) -> Values:
    """A finished run; its baseline has 95 % top-1, 80 MFLOPs and takes 2 ms (batch of 1) or 40 ms (of 64)."""
    values = {
        **identity(method, seed, keep),
        "status": "finished",
        "baseline": network(0.95, 80_000_000, (2.0, 40.0)),
        "after_pruning": {"top1": 0.5, "top5": 0.8},
        "pruned": network(top1, round(80_000_000 * keep), (1.6, 20.0)),
        "plan": {
            "widths": {"layer1": [16, 8]},
            "dropped_blocks": [],
            "digest": "00ff",
            "masked_vs_pruned": 1e-6,
        },
        "config": {"seed": seed, "recipe": {"epochs": 5}},
        "timings": {"baseline_s": 0, "score_s": 1.5, "recovery_s": 30.0, "evaluate_s": 2.0, "total_s": 34.0},
        "versions": {"python": "3.11"},
        "hardware": {"cpu": "a processor"},
        "git": {"revision": None, "dirty": False},
        "started": "2026-11-24T10:00:00+00:00",
        "finished": "2026-11-24T10:01:00+00:00",
    }
    return values | changes


class StudyFolder:
    """A study under construction."""

    network = staticmethod(network)

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def finished(
        self, method: str = "l1", seed: int = 0, *, folder: str | None = None, **changes: Any
    ) -> Values:
        """Add a run with a record; ``changes`` are of ``record``."""
        values = record(method, seed, **changes)
        self.write(f"{folder or values['key']}/record.json", json.dumps(values))
        return values

    def failed(
        self, method: str = "l1", seed: int = 0, keep: float = 0.5, error: str = "out of memory"
    ) -> None:
        values = {**identity(method, seed, keep), "error": error, "when": "2026-11-24T10:00:30+00:00"}
        self.write(f"{values['key']}/failure.json", json.dumps(values))

    def write(self, name: str, text: str) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder(tmp_path / "demo")
