"""NaN and infinity in running statistics and feature maps. Weights and images: ``test_battery``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from prunelab.errors import UserError
from prunelab.methods import (
    NISP,
    PFA,
    APoZ,
    Budget,
    ChannelPruning,
    Entropy,
    HRank,
    ImportanceMethod,
    L1Norm,
    PruningMethod,
    ReconstructionPruning,
    Subspace,
    Taylor,
    ThiNet,
)
from prunelab.methods.finite import is_finite

BUDGET = Budget(flops=0.6)
READ_MAPS = [
    *(ImportanceMethod(criterion(), BUDGET) for criterion in (APoZ, Entropy, Taylor, HRank, PFA, NISP)),
    *(ReconstructionPruning(rule(), BUDGET) for rule in (ThiNet, ChannelPruning, Subspace)),
]
"""Methods that read feature maps of the full network (not of candidates), in its precision (CURL: float64)."""


def title(method: PruningMethod) -> str:
    return method.title


def decide(method: PruningMethod, model: nn.Module, batches: Any) -> None:
    example = torch.zeros(1, *batches[0][0].shape[1:])
    method.decide(method.context(model, example, batches, validation=batches, name="net"))


def test_running_statistics_count_and_masks_do_not(plain: nn.Module, batches: Any) -> None:
    plain.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    decide(ImportanceMethod(L1Norm(), BUDGET), plain, batches)
    plain.norm1.running_var[1] = torch.nan
    with pytest.raises(UserError, match=r"norm1\.running_var"):
        decide(ImportanceMethod(L1Norm(), BUDGET), plain, batches)


@pytest.mark.parametrize("method", READ_MAPS, ids=title)
def test_feature_maps_that_overflow(plain: nn.Module, batches: Any, method: PruningMethod) -> None:
    """Weights and images are numbers, but the products are not: 3e38 is near the largest of float32."""
    plain.conv2.weight.data[1] = 3e38
    with pytest.raises(UserError, match=f"{method.title} .*the feature maps of conv2 .*NaN"):
        decide(method, plain, batches)


def test_large_numbers_are_finite() -> None:
    assert is_finite(torch.full((4,), 3e38))  # their sum is not
    assert is_finite(torch.full((4,), 6e4, dtype=torch.float16))
    assert is_finite(torch.zeros(0))
    assert is_finite(torch.ones(2, dtype=torch.int64))
    assert not is_finite(torch.tensor([1.0, torch.nan]))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))


def test_weights_behind_masks_of_torch_are_an_error(plain: nn.Module, batches: Any) -> None:
    convolution = next(module for module in plain.modules() if isinstance(module, nn.Conv2d))
    prune.l1_unstructured(convolution, "weight", amount=0.3)
    method = ImportanceMethod(L1Norm(), BUDGET)
    with pytest.raises(
        UserError, match=r"masked by torch\.nn\.utils\.prune.*prune\.remove\(module, 'weight'\)"
    ):
        decide(method, plain, batches)
    prune.remove(convolution, "weight")
    decide(method, plain, batches)


def test_lazy_layers_are_explained(batches: Any) -> None:
    network = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    with pytest.raises(UserError, match="lazy layers without weights"):
        decide(ImportanceMethod(L1Norm(), BUDGET), network, batches)
