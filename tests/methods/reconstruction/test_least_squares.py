"""Least squares from second moments agrees with least squares on the samples."""

from __future__ import annotations

import numpy as np
import pytest

from prunelab.methods.reconstruction.least_squares import (
    constants,
    contributions,
    errors_in_order,
    maps,
    merged,
    of_channels,
    refitted,
    relative_error,
    rescaled,
    scores_of_order,
)

ROWS, OUTPUTS, INPUTS, TAPS = 200, 3, 5, 2
KEPT = np.array([0, 2, 3])
RIDGE = 1e-12


@pytest.fixture
def samples() -> tuple[np.ndarray, np.ndarray]:
    """x (rows, inputs, kernel positions) of correlated inputs, W (outputs, inputs, kernel positions)."""
    generator = np.random.default_rng(0)
    mixture = np.eye(INPUTS * TAPS) + 0.5 * generator.normal(size=(INPUTS * TAPS, INPUTS * TAPS))
    rows = generator.normal(size=(ROWS, INPUTS * TAPS)) @ mixture
    return rows.reshape(ROWS, INPUTS, TAPS), generator.normal(size=(OUTPUTS, INPUTS, TAPS))


def moments(rows: np.ndarray) -> np.ndarray:
    flat = rows.reshape(len(rows), -1)
    return flat.T @ flat / len(flat)


def parts(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The contribution of each input to each output: (rows * outputs, inputs)."""
    return np.einsum("rit,oit->roi", rows, weights).reshape(-1, weights.shape[1])


def test_by_hand() -> None:
    # Inputs 1 and 2 are the same map; the layer adds input 0 and both of them, once with weight 2.
    gram = np.array([[1.0, 0, 0], [0, 4, 4], [0, 4, 4]])
    weights = np.array([[[1.0], [1.0], [2.0]]])
    assert contributions(gram, weights).tolist() == [[1, 0, 0], [0, 4, 8], [0, 8, 16]]
    kept = np.array([0, 1])
    assert np.allclose(rescaled(weights, gram, kept, RIDGE)[0, :2, 0], [1, 3])
    assert np.allclose(refitted(weights, gram, kept, RIDGE)[0, :2, 0], [1, 3])
    assert np.allclose(merged(weights, gram, kept, RIDGE)[0, :2, 0], [1, 3])
    # y = x_0 + 3 x_1 has energy 1 + 36; without input 2 it lacks 2 x_1, of energy 16.
    assert relative_error(weights, weights, gram, kept) == pytest.approx(16 / 37)
    assert np.allclose(errors_in_order(contributions(gram, weights), np.array([1, 0, 2])), [1, 1 / 37, 0, 0])


def test_grams_are_those_of_the_samples(samples: tuple[np.ndarray, np.ndarray]) -> None:
    rows, weights = samples
    own = parts(rows, weights)
    assert np.allclose(contributions(moments(rows), weights), own.T @ own / ROWS)
    assert np.allclose(maps(moments(rows), TAPS), np.einsum("rit,rkt->ik", rows, rows) / ROWS)
    index = np.array([[0, 3], [1, 4]])  # two channels, two inputs each
    together = own[:, index].sum(axis=2)
    assert np.allclose(
        of_channels(contributions(moments(rows), weights), index), together.T @ together / ROWS
    )


def test_fits_are_those_of_lstsq(samples: tuple[np.ndarray, np.ndarray]) -> None:
    rows, weights = samples
    own, flat = parts(rows, weights), rows[:, KEPT].reshape(ROWS, -1)
    outputs = np.einsum("rit,oit->ro", rows, weights)

    factors = np.linalg.lstsq(own[:, KEPT], own.sum(axis=1), rcond=None)[0]
    found = rescaled(weights, moments(rows), KEPT, RIDGE)
    assert np.allclose(found[:, KEPT], weights[:, KEPT] * factors[None, :, None])

    free = np.linalg.lstsq(flat, outputs, rcond=None)[0].T.reshape(OUTPUTS, len(KEPT), TAPS)
    found = refitted(weights, moments(rows), KEPT, RIDGE)
    assert np.allclose(found[:, KEPT], free)
    error = np.mean((outputs - flat @ free.reshape(OUTPUTS, -1).T) ** 2) / np.mean(outputs**2)
    assert relative_error(weights, found, moments(rows), KEPT) == pytest.approx(error)

    columns = rows.transpose(0, 2, 1).reshape(-1, INPUTS)
    mixture = np.linalg.lstsq(columns[:, KEPT], columns[:, [1, 4]], rcond=None)[0]
    expected = weights[:, KEPT] + np.einsum("sr,ort->ost", mixture, weights[:, [1, 4]])
    assert np.allclose(merged(weights, moments(rows), KEPT, RIDGE)[:, KEPT], expected)


def test_errors_in_order_are_those_of_a_fit_at_each_length(samples: tuple[np.ndarray, np.ndarray]) -> None:
    own, order = parts(*samples), np.array([3, 1, 4, 0, 2])
    target = own.sum(axis=1)
    found = errors_in_order(own.T @ own, order)
    for length in range(6):
        chosen = own[:, order[:length]]
        left = target - chosen @ np.linalg.lstsq(chosen, target, rcond=None)[0]
        assert found[length] == pytest.approx(np.sum(left**2) / np.sum(target**2), abs=1e-9)


def test_scores_reproduce_their_order_even_among_dead_channels() -> None:
    order = np.array([2, 0, 3, 1])
    scores = scores_of_order(np.diag([1.0, 0, 2, 0]), order)
    assert np.argsort(-scores).tolist() == order.tolist()
    assert scores[2] == 1 and scores[0] == pytest.approx(1 / 3)
    assert np.argsort(-scores_of_order(np.zeros((4, 4)), order)).tolist() == order.tolist()


@pytest.mark.parametrize("adjust", [rescaled, refitted])
def test_no_adjustment_is_worse_than_plain_removal(
    adjust: object, samples: tuple[np.ndarray, np.ndarray]
) -> None:
    rows, weights = samples
    few = moments(rows[:4])  # fewer samples than unknowns
    for ridge in (1e-6, 1e-2, 10.0):
        adjusted = adjust(weights, few, KEPT, ridge)  # type: ignore[operator]
        assert relative_error(weights, adjusted, few, KEPT) <= relative_error(weights, weights, few, KEPT)


def test_constants_make_up_for_a_shift() -> None:
    # x_1 = 2 x_0 + 3: without it the weight grows by 2 x 5 and the output by 3 x 5. E[x_0] = 1, variance 4.
    weights, kept = np.array([[[1.0], [5.0]]]), np.array([0])
    mean = np.array([1.0, 5.0])
    covariance = 4.0 * np.array([[1.0, 2.0], [2.0, 4.0]])
    second = covariance + np.outer(mean, mean)
    adjusted = refitted(weights, covariance, kept, RIDGE)
    assert np.allclose(adjusted[0, 0, 0], 11)
    assert np.allclose(constants(weights, adjusted, mean, kept), 15)
    assert relative_error(weights, adjusted, second, kept, covariance) == pytest.approx(0, abs=1e-9)
    without = refitted(weights, second, kept, RIDGE)
    assert np.allclose(without[0, 0, 0], 14)  # 1 + 5 E[x_0 x_1] / E[x_0^2] = 1 + 5 x 13 / 5
    assert relative_error(weights, without, second, kept) == pytest.approx((3**2 * 4 + 12**2) / 1160)
