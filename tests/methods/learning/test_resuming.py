"""Every method that learns goes on from a checkpoint in the middle of learning as if nothing had happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

import prunelab.methods
from prunelab.methods import (
    DMCP,
    FPGM,
    LFPC,
    SSL,
    VCNN,
    AutoPruner,
    Budget,
    Criterion,
    GroupBrainDamage,
    L1Norm,
    LearningMethod,
    PruningContext,
    Scores,
    Slimming,
    SoftPruning,
)

pytestmark = pytest.mark.slow

HALF = Budget(flops=0.5)


@dataclass(frozen=True)
class Smallest(Criterion):
    """The opposite of the l1 norm: where criteria agree LFPC has nothing to learn, and nothing to lose."""

    reads: ClassVar = "weights"

    def score(self, context: PruningContext) -> Scores:
        return Scores({name: -norms for name, norms in L1Norm().score(context).channels.items()})


METHODS: dict[str, Callable[[], LearningMethod]] = {
    "slimming": lambda: Slimming(HALF, strength=0.01),
    "ssl": lambda: SSL(HALF, levels=["filter", "stage", "block"]),
    "ssl by subgradients": lambda: SSL(HALF, step="subgradient", snap=0.01),
    "group_brain_damage": lambda: GroupBrainDamage(HALF),
    "sfp": lambda: SoftPruning(HALF),
    "fpgm_soft": lambda: SoftPruning(HALF, FPGM(), mask_gradients=True),
    "vcnn": lambda: VCNN(HALF),
    "autopruner": lambda: AutoPruner(HALF, last_scale=1.0),  # whose codes do not settle
    "dmcp": lambda: DMCP(HALF, warmup=0.2),
    "lfpc": lambda: LFPC(HALF, [L1Norm(), Smallest()], sampler_lr=0.05, validation_images=100),
}


def test_no_method_that_learns_is_left_out() -> None:
    offered = {getattr(prunelab.methods, name) for name in prunelab.methods.__all__} - {LearningMethod}
    learning = {found for found in offered if isinstance(found, type) and issubclass(found, LearningMethod)}
    assert {type(make()) for make in METHODS.values()} == learning


@pytest.mark.parametrize("name", METHODS)
def test_learning_that_crashed_goes_on_as_if_it_had_not(assert_resumes: Any, name: str) -> None:
    assert_resumes(METHODS[name], epochs=6 if name == "autopruner" else 3)  # whose last fifth has a state
