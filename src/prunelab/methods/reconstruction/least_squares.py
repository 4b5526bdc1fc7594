"""Least squares in Gram form, from the second moments A = E[x x^T] of a layer's inputs.

x (features,) are the inputs of one output position, x_i the part of x that comes from input i (all kernel positions of
one channel), W (outputs, inputs, kernel positions) the weights. The layer computes y = sum_i W_i x_i.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve, solve_triangular

Matrix = NDArray[np.float64]
Indices = NDArray[np.int64]


def contributions(moments: Matrix, weights: Matrix) -> Matrix:
    """G_ik = E[(W_i x_i) . (W_k x_k)], (inputs, inputs): products of the contributions of inputs.

    Summed over all outputs; the papers sample some.
    """
    outputs, inputs, kernel_size = weights.shape
    flat = weights.reshape(outputs, -1)
    return (moments * (flat.T @ flat)).reshape(inputs, kernel_size, inputs, kernel_size).sum(axis=(1, 3))


def maps(moments: Matrix, kernel_size: int) -> Matrix:
    """M_ik = E[x_i . x_k], (inputs, inputs): products of the feature maps of inputs."""
    inputs = len(moments) // kernel_size
    found: Matrix = np.einsum("iaka->ik", moments.reshape(inputs, kernel_size, inputs, kernel_size))
    return found


def of_channels(gram: Matrix, index: Indices) -> Matrix:
    """The Gram matrix (channels, channels) of channels that own the inputs ``index`` (channels, m) each."""
    rows: Matrix = gram[index].sum(axis=1)
    return rows[:, index].sum(axis=2)


def errors_in_order(gram: Matrix, order: Indices) -> Matrix:
    """The error if only the first t channels of an order are kept, for t = 0 ... n: (n + 1,), falling from 1 to 0.

    min_w E|y - sum_{i kept} w_i z_i|^2 / E|y|^2, with the Gram matrix (n, n) of the contributions z_i to y = sum
    z_i. One Cholesky factorisation gives all of them.
    """
    ordered = gram[np.ix_(order, order)]
    total = ordered.sum()
    errors = np.zeros(len(order) + 1)
    if total <= 0:
        return errors
    factor = cholesky(ordered + 1e-12 * _level(ordered) * np.eye(len(order)), lower=True)
    explained = np.cumsum(solve_triangular(factor, ordered.sum(axis=1), lower=True) ** 2)
    errors[0], errors[1:] = 1.0, np.clip(1 - explained / total, 0, 1)
    errors[-1] = 0.0
    return np.maximum.accumulate(errors[::-1])[::-1]


def scores_of_order(gram: Matrix, order: Indices) -> Matrix:
    """Scores (n,) that fall along ``order``: the error (see ``errors_in_order``) of a layer without the channel and all
    channels after it. Comparable between layers: a fraction of the output's energy."""
    scores = np.empty(len(order))
    above = -np.inf
    for channel, error in zip(order[::-1], errors_in_order(gram, order)[-2::-1], strict=True):
        above = scores[channel] = max(float(error), float(np.nextafter(above, np.inf)))
    return scores


def rescaled(weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
    """The weights, with those of each kept input multiplied by one number, so that E|y - y'|^2 is smallest."""
    gram = contributions(moments, weights)
    removed = _others(kept, len(gram))
    factors = 1 + _corrections(gram[np.ix_(kept, kept)], gram[np.ix_(kept, removed)].sum(axis=1), ridge)
    adjusted = weights.copy()
    adjusted[:, kept] *= factors[None, :, None]
    return adjusted


def refitted(weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
    """The weights, with all those of kept inputs free, so that E|y - y'|^2 is smallest."""
    outputs, inputs, kernel_size = weights.shape
    flat = weights.reshape(outputs, -1).copy()
    own, gone = _features(kept, kernel_size), _features(_others(kept, inputs), kernel_size)
    wanted = moments[np.ix_(own, gone)] @ flat[:, gone].T
    flat[:, own] += _corrections(moments[np.ix_(own, own)], wanted, ridge).T
    return flat.reshape(weights.shape)


def merged(weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
    """The weights with removed maps replaced by combinations of kept ones: x_r = sum_s c_sr x_s by least squares of the
    maps, and W_s + sum_r c_sr W_r."""
    gram = maps(moments, weights.shape[2])
    removed = _others(kept, len(gram))
    mixture = _corrections(gram[np.ix_(kept, kept)], gram[np.ix_(kept, removed)], ridge)
    adjusted = weights.copy()
    adjusted[:, kept] += np.einsum("sr,ort->ost", mixture, weights[:, removed])
    return adjusted


def relative_error(
    weights: Matrix, adjusted: Matrix, moments: Matrix, kept: Indices, about_mean: Matrix | None = None
) -> float:
    """E|y - y'|^2 / E|y|^2 if ``adjusted`` weights read only the kept inputs; from the moments ``about_mean`` if
    constants compensate a shift."""
    before = weights.reshape(len(weights), -1)
    after = _missing(weights, adjusted, kept)
    energy = float(np.sum(before @ moments * before))
    lost = float(np.sum(after @ (moments if about_mean is None else about_mean) * after))
    return lost / energy if energy > 0 else 0.0


def constants(weights: Matrix, adjusted: Matrix, mean: Matrix, kept: Indices) -> Matrix:
    """E[y - y'] (outputs,) if ``adjusted`` weights read only the kept inputs; ``mean`` is E[x]."""
    shift: Matrix = _missing(weights, adjusted, kept) @ mean
    return shift


def _missing(weights: Matrix, adjusted: Matrix, kept: Indices) -> Matrix:
    """The weights (outputs, features) of y - y'."""
    change = weights.copy()
    change[:, kept] -= adjusted[:, kept]
    flat: Matrix = change.reshape(len(change), -1)
    return flat


def _corrections(gram: Matrix, wanted: Matrix, ridge: float) -> Matrix:
    """The change of the remaining weights. The ridge, relative to the mean energy of an input, keeps it small; it
    becomes zero (plain removal) for inputs of almost no energy, and the error is never larger than that of plain
    removal."""
    return solve(gram + ridge * _level(gram) * np.eye(len(gram)), wanted, assume_a="pos")


def _level(gram: Matrix) -> float:
    return float(np.trace(gram)) / len(gram) or 1.0


def _others(kept: Indices, size: int) -> Indices:
    return np.setdiff1d(np.arange(size), kept)


def _features(inputs: Indices, kernel_size: int) -> Indices:
    return (inputs[:, None] * kernel_size + np.arange(kernel_size)).ravel()
