"""The smallest real run: digits, one epoch of everything, a little ResNet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prunelab.cli.config import configure

SMALLEST = (
    "budget.flops=0.5",
    "baseline.training.epochs=1",
    "recipe.training.epochs=1",
    "trainer=cpu",
    "study=tests",
)

Configure = Callable[..., dict[str, Any]]


@pytest.fixture
def smallest(tmp_path: Path) -> Configure:
    """Makes the resolved configuration of a smallest run in a folder of its own, with any other words."""

    def configured(*words: str) -> dict[str, Any]:
        return configure([*SMALLEST, f"outputs={tmp_path / 'outputs'}", *words])

    return configured
