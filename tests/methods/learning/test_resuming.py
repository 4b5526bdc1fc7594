"""Every method that learns continues from a checkpoint in the middle of learning like an uninterrupted one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

import battery

from prunelab.methods import LFPC, Budget, Criterion, L1Norm, LearningMethod, PruningContext, Scores

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Smallest(Criterion):
    """The opposite of the l1 norm: if all criteria agree, LFPC has nothing to learn."""

    reads: ClassVar = "weights"

    def score(self, context: PruningContext) -> Scores:
        return Scores({name: -norms for name, norms in L1Norm().score(context).channels.items()})


STRONG = {"strength": 0.01, "last_scale": 1.0, "sampler_lr": 0.05, "validation_images": 100, "warmup": 0.2}
"""Settings with which a method changes something in three epochs (and AutoPruner's codes do not settle)."""

LEARNING = [name for name in battery.METHODS if battery.learns(name)]


def method(name: str, **changes: Any) -> LearningMethod:
    strong = {key: value for key, value in STRONG.items() if key in battery.settings(name)}
    made = battery.made(name, **strong, **changes)
    assert isinstance(made, LearningMethod)
    return made


@pytest.mark.parametrize("name", LEARNING)
def test_a_resumed_learning_fit_ends_like_an_uninterrupted_one(assert_resumes: Any, name: str) -> None:
    assert_resumes(
        lambda: method(name), epochs=6 if name == "autopruner" else 3
    )  # whose last fifth has a state


def test_ssl_by_subgradients(assert_resumes: Any) -> None:
    assert_resumes(lambda: method("ssl", step="subgradient", snap=0.01))


def test_lfpc_with_criteria_that_disagree(assert_resumes: Any) -> None:
    criteria = [L1Norm(), Smallest()]
    assert_resumes(lambda: LFPC(Budget(flops=0.5), criteria, sampler_lr=0.05, validation_images=100))
