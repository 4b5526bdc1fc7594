"""PFA by hand, compared with plain implementations, and on a network with a duplicated and a dead filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from prunelab.errors import UserError
from prunelab.methods import PFA, Budget, ImportanceMethod, PruningContext
from prunelab.methods.importance.pfa import PooledCovariance, dropping_order, eigenvalues, kl_width

MakeContext = Callable[..., PruningContext]


def greedy(correlations: np.ndarray) -> list[int]:
    """L1Max by its definition, with new sums for every unit."""
    remaining, dropped = list(range(len(correlations))), []
    while remaining:
        sums = [sum(abs(correlations[i, j]) for j in remaining if j != i) for i in remaining]
        dropped.append(remaining.pop(int(np.argmax(sums))))
    return dropped


def random_covariance(n: int, seed: int = 0) -> np.ndarray:
    return np.cov(
        np.random.default_rng(seed).normal(size=(3 * n, n)) @ np.diag(np.arange(1, n + 1)), rowvar=False
    )


def test_covariance_is_streamed(batches: Any) -> None:
    metric = PooledCovariance(2)
    for images, _ in batches:
        metric.update(images.flatten(2))
    responses = torch.cat([images for images, _ in batches]).amax(dim=(2, 3)).numpy()
    np.testing.assert_allclose(metric.compute(), np.cov(responses, rowvar=False, bias=True), rtol=1e-6)


def test_l1max_equals_a_plain_loop() -> None:
    covariance = random_covariance(12)
    deviations = np.sqrt(np.diag(covariance))
    # The last two have the same sum: the plain loop drops the first, here the later one is dropped.
    expected = greedy(covariance / np.outer(deviations, deviations))
    found = dropping_order(covariance, "l1max").tolist()
    assert found[:-2] == expected[:-2] and found[-2] > found[-1]


def test_orders_by_hand() -> None:
    covariance = np.array(
        [[1.0, 0.5, 0.5, 0.5], [0.5, 1.0, 0.0, 0.1], [0.5, 0.0, 1.0, 0.7], [0.5, 0.1, 0.7, 1.0]]
    )
    # sums 1.5 0.6 1.2 1.3; without 0: 0.1 0.7 0.8; without 3: 0 0
    assert dropping_order(covariance, "l1max").tolist() == [0, 3, 2, 1]
    # 2 and 3 correlate most, and next most with 0 (0.5 each): the last is dropped; then the next of 0 is larger than of
    # 1
    assert dropping_order(covariance, "absmax").tolist() == [3, 0, 2, 1]


def test_the_one_of_the_closest_pair_with_the_larger_next_correlation_is_dropped() -> None:
    covariance = np.eye(5)
    for one, other, correlation in [(0, 1, 0.9), (0, 2, 0.6), (1, 2, 0.4), (1, 3, 0.4), (1, 4, 0.4)]:
        covariance[one, other] = covariance[other, one] = correlation
    # 0 is dropped (0.6 > 0.4, although the sum of 1 is larger), then 1 (0.4 > 0), then the last uncorrelated one
    assert dropping_order(covariance, "absmax").tolist() == [0, 1, 3, 4, 2]


def test_units_that_do_not_vary_go_first() -> None:
    covariance = random_covariance(5)
    covariance[[1, 3]] = covariance[:, [1, 3]] = 0
    for order in ("l1max", "absmax"):
        assert dropping_order(covariance, order)[:2].tolist() == [3, 1]  # type: ignore[arg-type]


@pytest.mark.parametrize("images", [1, 5, 12, 40])
def test_eigenvalues_of_few_and_of_many_images(images: int) -> None:
    responses = np.random.default_rng(images).normal(size=(images, 16)) * np.linspace(0.1, 3, 16)
    covariance = np.cov(responses, rowvar=False, bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(eigenvalues(covariance), expected, atol=1e-13 * np.trace(covariance))


def test_constant_units_have_no_energy() -> None:
    assert (eigenvalues(np.zeros((4, 4))) == 0).all()


def test_kl_width_by_hand() -> None:
    assert kl_width(np.ones(8)) == 8  # white: no unit is dropped
    assert kl_width(np.array([5.0, 0, 0, 0])) == 1  # one direction
    assert kl_width(np.array([1.0, 1, 0, 0])) == 2  # entropy log 2 = half of log 4
    assert kl_width(np.array([2.0, 1, 1, 0])) == 3  # entropy 1.5 log 2, 0.75 x 4
    assert kl_width(np.zeros(3)) == 1


def test_one_threshold_is_one_energy(plain: nn.Module, batches: Any, make_context: MakeContext) -> None:
    scores = PFA().score(make_context(PFA(), plain)).channels
    pooled: list[np.ndarray] = []
    relu = functional.relu
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(
            functional,
            "relu",
            lambda tensor: pooled.append(relu(tensor).amax((2, 3)).numpy()) or relu(tensor),
        )
        plain(torch.cat([images for images, _ in batches]))
    for name, responses in zip(["conv1", "conv2"], pooled, strict=True):
        covariance = np.cov(responses, rowvar=False)
        spectrum = np.linalg.eigvalsh(covariance)[::-1]
        energy = spectrum.cumsum() / spectrum.sum()
        for tau in (0.3, 0.5, 0.8, 0.95, 0.99):
            assert (scores[name] > 1 - tau).sum() == np.searchsorted(energy, tau) + 1
        order = dropping_order(covariance, "l1max")
        assert np.argsort(scores[name]).tolist() == order.tolist()


def test_kl_scores_above_one_are_the_paper_s_own_widths(plain: nn.Module, make_context: MakeContext) -> None:
    plain.conv2.weight.data[3:] = plain.conv2.weight.data[:1]
    for tensor in (plain.norm2.weight, plain.norm2.bias, plain.norm2.running_mean, plain.norm2.running_var):
        tensor.data[3:] = tensor.data[:1]
    energy, kl = (PFA(widths=widths) for widths in ("energy", "kl"))
    by_energy = energy.score(make_context(energy, plain)).channels["conv2"]
    by_kl = kl.score(make_context(kl, plain)).channels["conv2"]
    assert np.argsort(by_energy).tolist() == np.argsort(by_kl).tolist()
    assert (by_kl >= 1).sum() <= 4  # three directions: at most 6 log 3 / log 6 = 3.7, rounded up
    assert set(np.argsort(by_kl)[:3]) <= {0, 3, 4, 5}  # three of the equal ones are dropped first


def test_a_dead_filter_is_removed_first(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm1.weight.data[2], plain.norm1.bias.data[2] = 0.0, 1.0  # constant, and larger than others
    scores = PFA().score(make_context(PFA(), plain)).channels["conv1"]
    assert scores.argmin() == 2 and scores[2] == pytest.approx(0, abs=1e-8)


def test_stages_are_scored_and_blocks_are_errors(residual: nn.Module, make_context: MakeContext) -> None:
    assert len(PFA().score(make_context(PFA(), residual)).channels) == 4
    with pytest.raises(UserError, match="PFA is not defined for level block: take block out of levels"):
        ImportanceMethod(PFA(), Budget(flops=0.5), levels=["filter", "block"])


def test_too_few_images_are_pointed_out(plain: nn.Module, make_context: MakeContext) -> None:
    with pytest.warns(UserWarning, match="5 images, but a layer of Plain has 6 channels"):
        PFA().score(make_context(PFA(), plain, images=5))


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="widths: 'size' does not exist"):
        PFA(widths="size")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="order: 'l1' does not exist"):
        PFA(order="l1")  # type: ignore[arg-type]
