"""What is dead goes first, by every criterion that judges channels one by one.

NISP judges by what is read (``test_nisp``): to Inf-FS a constant input of the classifier is merely independent of the
others. FPGM looks for what can be replaced (``test_weights``).
"""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from prunelab.methods import (
    CURL,
    PFA,
    SCSP,
    APoZ,
    BNGamma,
    Budget,
    Criterion,
    Entropy,
    HRank,
    ImportanceMethod,
    L1Norm,
    L2Norm,
    Taylor,
)

CRITERIA = (L1Norm, L2Norm, BNGamma, SCSP, APoZ, Entropy, Taylor, HRank, PFA, CURL)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_dead_channels_are_what_is_removed(
    plain: nn.Module, batches: Any, criterion: type[Criterion]
) -> None:
    dead, alive = [1, 4], (0, 2, 3, 5)
    for part in (plain.conv2.weight, plain.norm2.weight, plain.norm2.bias):
        part.data[dead] = 0.0
    plain.head.weight.data[:, dead] = 0.0
    method = ImportanceMethod(criterion(), Budget(flops=0.76))  # without the two it is 3/4
    plan = method.decide(method.context(plain, batches[0][0][:1], batches))
    assert plan.kept["conv2"] == alive
    assert plan.kept["conv1"] == (0, 1, 2, 3)
