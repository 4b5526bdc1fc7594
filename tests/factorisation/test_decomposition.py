"""Sequences of full rank compute what their layer computes; those of lower rank lose the truncated singular values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.factorisation.decomposition import (
    factor_weights,
    product,
    rows_by_columns,
    singular_values,
    unfolded,
)
from prunelab.factorisation.vbmf import vbmf_rank
from prunelab.structure.low_rank import Factors, flops_of, params_of, sequence, set_weights

FULL = [Factors("channel", (5,)), Factors("spatial", (10,)), Factors("tucker", (4, 5)), Factors("cp", (24,))]
"""For 4 inputs, 5 outputs and a kernel of 3 x 2."""

SETTINGS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1), "padding": (1, 2), "bias": False},
    {"dilation": (1, 2), "padding": "same"},
    {"padding": (2, 1), "padding_mode": "circular", "stride": (1, 2)},
]


def replaced(layer: nn.Conv2d | nn.Linear, factors: Factors, iterations: int = 50) -> nn.Sequential:
    weight = layer.weight.detach().double().numpy()
    kernel = weight if weight.ndim == 4 else weight[:, :, None, None]
    made = sequence(layer, factors)
    set_weights(
        made, [torch.from_numpy(each) for each in factor_weights(kernel, factors, iterations)], layer.bias
    )
    return made


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("factors", FULL, ids=str)
def test_full_rank_reproduces_a_convolution(factors: Factors, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 5, (3, 2), **settings).double()
    images = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        expected = layer(images)
        found = replaced(layer, factors, iterations=2000)(images)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 if factors.form == "cp" else 1e-12)


def test_full_rank_reproduces_a_linear_layer() -> None:
    layer = nn.Linear(7, 4).double()
    rows = torch.randn(3, 6, 7, dtype=torch.float64)
    torch.testing.assert_close(
        replaced(layer, Factors("channel", (4,)))(rows), layer(rows), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_error_is_the_sum_of_the_truncated_squared_singular_values(rank: int) -> None:
    kernel = np.random.default_rng(0).normal(size=(6, 5, 3, 3))
    matrices = {"channel": unfolded(kernel, 0), "spatial": rows_by_columns(kernel)}
    for form, matrix in matrices.items():
        found = product(factor_weights(kernel, Factors(form, (rank,))), form)
        expected = np.sum(np.linalg.svd(matrix, compute_uv=False)[rank:] ** 2)
        assert np.sum((kernel - found) ** 2) == pytest.approx(expected, rel=1e-10)
        assert np.allclose(singular_values(matrix), np.linalg.svd(matrix, compute_uv=False))


def test_tucker_loses_at_most_what_both_unfoldings_lose() -> None:
    kernel = np.random.default_rng(0).normal(size=(6, 5, 3, 3))
    error = np.sum((kernel - product(factor_weights(kernel, Factors("tucker", (3, 4))), "tucker")) ** 2)
    inputs, outputs = (singular_values(unfolded(kernel, mode)) ** 2 for mode in (1, 0))
    assert max(inputs[3:].sum(), outputs[4:].sum()) <= error <= inputs[3:].sum() + outputs[4:].sum()


def test_cp_finds_a_kernel_of_its_rank() -> None:
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(size, 2)) for size in (6, 5, 3, 3)]
    kernel = np.einsum("or,ir,kr,lr->oikl", *factors)
    found = product(factor_weights(kernel, Factors("cp", (2,)), 500), "cp")
    assert np.sum((kernel - found) ** 2) < 1e-4 * np.sum(kernel**2)


@pytest.mark.parametrize(
    ("factors", "flops", "params"),
    [
        # A convolution of 4 to 5 channels, 3 x 2, with bias; input 9 x 8, output 4 x 7 (stride 2, 1).
        (None, 2 * 28 * 120 + 5 * 28, 125),
        (Factors("channel", (2,)), 2 * 28 * (48 + 10) + 140, 63),
        (Factors("spatial", (2,)), 2 * (4 * 8 * 24 + 28 * 20) + 140, 49),
        (Factors("tucker", (2, 3)), 2 * (72 * 8 + 28 * 36 + 28 * 15) + 140, 64),
        (Factors("cp", (2,)), 2 * (72 * 8 + 32 * 6 + 28 * 4 + 28 * 10) + 140, 33),
    ],
    ids=str,
)
def test_costs_of_sequences(factors: Factors | None, flops: int, params: int) -> None:
    layer = nn.Conv2d(4, 5, (3, 2), stride=(2, 1))
    assert flops_of(layer, factors, (9, 8), (4, 7)) == flops
    assert params_of(layer, factors) == params
    if factors is not None:
        assert sum(each.numel() for each in sequence(layer, factors).parameters()) == params


@pytest.mark.parametrize("rank", [1, 4, 9])
def test_vbmf_finds_the_rank_of_a_noisy_matrix(rank: int) -> None:
    rng = np.random.default_rng(rank)
    signal = rng.normal(size=(40, rank)) @ rng.normal(size=(rank, 90))
    noisy = signal + 0.2 * rng.normal(size=signal.shape)
    assert vbmf_rank(np.linalg.svd(noisy, compute_uv=False), 40, 90) == rank
    assert vbmf_rank(np.linalg.svd(noisy.T, compute_uv=False), 90, 40) == rank
