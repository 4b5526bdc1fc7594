"""Channel independence, computed by hand and with one singular value decomposition for each channel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.methods import CHIP, PruningContext
from prunelab.methods.importance.chip import MeanIndependence, independence

MakeContext = Callable[..., PruningContext]


def by_definition(maps: Tensor) -> Tensor:
    """||A||_* - ||M_j A||_* of maps (N, channels, positions) with one decomposition for each channel."""
    maps = maps.double()
    whole = torch.linalg.svdvals(maps).sum(dim=1)
    without = []
    for channel in range(maps.shape[1]):
        zeroed = maps.clone()
        zeroed[:, channel] = 0
        without.append(torch.linalg.svdvals(zeroed).sum(dim=1))
    return whole[:, None] - torch.stack(without, dim=1)


@pytest.mark.parametrize(
    ("maps", "expected"),
    [
        ([[3.0, 0.0], [0.0, 4.0]], [3.0, 4.0]),  # independent maps: their lengths
        ([[3.0], [0.0], [4.0]], [1.0, 0.0, 2.0]),  # 5 - 4, 5 - 5, 5 - 3
        ([[1.0, 0.0], [1.0, 0.0]], [math.sqrt(2) - 1, math.sqrt(2) - 1]),  # copies
        # The Gram matrix [[1, 1], [1, 2]] has trace 3 and determinant 1: (s1 + s2)^2 = 3 + 2.
        ([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]], [math.sqrt(5) - math.sqrt(2), math.sqrt(5) - 1]),
        ([[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
    ],
)
def test_independence_by_hand(maps: list[list[float]], expected: list[float]) -> None:
    assert independence(torch.tensor([maps]))[0].tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (12, 12), (1, 9), (9, 1)])
def test_independence_equals_one_decomposition_for_each_channel(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(3, *shape, generator=generator)
    thin = full[:, :, :1] * torch.randn(3, 1, shape[1], generator=generator)
    copies = full.clone()
    copies[:, -1] = copies[:, 0]
    dead = functional.relu(full)
    dead[:, 0] = 0
    for maps in (full, functional.relu(full), thin, copies, dead, 1e-6 * full, 1e6 * full):
        expected = by_definition(maps)
        # Squared singular values resolve those that are close to zero to half of the digits of float64.
        scale = float(maps.double().norm())
        np.testing.assert_allclose(independence(maps), expected, rtol=1e-7, atol=1e-7 * scale)


def test_scores_equal_the_plain_definition(
    plain: nn.Module, make_context: MakeContext, relu_maps: list[Tensor]
) -> None:
    scores = CHIP().score(make_context(CHIP(), plain)).channels
    for name, found in zip(["conv1", "conv2"], relu_maps, strict=True):
        np.testing.assert_allclose(scores[name], by_definition(found.flatten(2)).mean(dim=0), rtol=1e-5)


def test_a_map_of_zeros_has_no_independence(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm1.weight.data[1] = 0
    plain.norm1.bias.data[1] = -1.0
    scores = CHIP().score(make_context(CHIP(), plain)).channels["conv1"]
    assert scores[1] == 0 and (scores[[0, 2, 3]] > 0).all()


def test_large_maps_are_converted_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0))
    at_once, in_pieces = MeanIndependence(3), MeanIndependence(3)
    at_once.update(maps)
    monkeypatch.setattr("prunelab.methods.importance.chip._VALUES_AT_ONCE", 50)  # two images
    in_pieces.update(maps)
    torch.testing.assert_close(at_once.compute(), in_pieces.compute())
