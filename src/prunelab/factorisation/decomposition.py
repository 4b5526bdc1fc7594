"""Decompositions of a kernel with tensorly: the weights of the sequences, and what a rank loses."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prunelab.errors import UserError
from prunelab.structure.low_rank import Factors

Array = NDArray[np.float64]

CP_ITERATIONS = 50
"""Of alternating least squares at most."""


def require_tensorly() -> None:
    """Raise UserError if tensorly is not installed."""
    if importlib.util.find_spec("tensorly") is None:
        raise UserError(
            "Low-rank layers need the package tensorly: pip install 'prunelab[lowrank]', or set lowrank=none."
        )


def factor_weights(kernel: Array, factors: Factors, iterations: int = CP_ITERATIONS) -> list[Array]:
    """The weights of the layers of a sequence, first to last, as ``nn.Conv2d`` stores them.

    Args:
        kernel: (outputs, inputs, height, width); of a linear layer with height and width 1.
        factors: form and ranks.
        iterations: of alternating least squares for "cp", at most.
    """
    outputs, inputs, height, width = kernel.shape
    if factors.form == "channel":
        left, right = _halves(kernel.reshape(outputs, -1), factors.ranks[0])
        return [right.reshape(-1, inputs, height, width), left[:, :, None, None]]
    if factors.form == "spatial":
        left, right = _halves(rows_by_columns(kernel), factors.ranks[0])
        last = left.reshape(outputs, width, -1).transpose(0, 2, 1)
        return [right.reshape(-1, inputs, height, 1), last[:, :, None, :]]
    if factors.form == "tucker":
        core, (last, first) = _tucker(kernel, factors.ranks)
        return [first.T[:, :, None, None], core, last[:, :, None, None]]
    last, first, down, along = _cp(kernel, factors.ranks[0], iterations)
    return [
        first.T[:, :, None, None],
        down.T[:, None, :, None],
        along.T[:, None, None, :],
        last[:, :, None, None],
    ]


def product(weights: list[Array], form: str) -> Array:
    """The kernel (outputs, inputs, height, width) that a sequence with these weights computes."""
    if form == "channel":
        return np.einsum("or,rikl->oikl", weights[1][:, :, 0, 0], weights[0])
    if form == "spatial":
        return np.einsum("orl,rik->oikl", weights[1][:, :, 0, :], weights[0][:, :, :, 0])
    if form == "tucker":
        first, core, last = weights[0][:, :, 0, 0], weights[1], weights[2][:, :, 0, 0]
        return np.einsum("ob,bakl,ai->oikl", last, core, first, optimize=True)
    first, last = weights[0][:, :, 0, 0], weights[3][:, :, 0, 0]
    down, along = weights[1][:, 0, :, 0], weights[2][:, 0, 0, :]
    return np.einsum("or,rk,rl,ri->oikl", last, down, along, first, optimize=True)


def singular_values(matrix: Array) -> Array:
    """All singular values, the largest first."""
    with _numpy():
        from tensorly.tenalg import svd_interface

        return np.asarray(svd_interface(matrix, n_eigenvecs=min(matrix.shape))[1], dtype=np.float64)


def rows_by_columns(kernel: Array) -> Array:
    """The kernel as (outputs * width, inputs * height), whose rank is that of the "spatial" form."""
    outputs, inputs, height, width = kernel.shape
    return kernel.transpose(0, 3, 1, 2).reshape(outputs * width, inputs * height)


def unfolded(kernel: Array, mode: int) -> Array:
    """The kernel as a matrix (size of dimension ``mode``, all others)."""
    return np.moveaxis(kernel, mode, 0).reshape(kernel.shape[mode], -1)


def _halves(matrix: Array, rank: int) -> tuple[Array, Array]:
    """The best approximation of this rank as a product (rows, rank) (rank, columns), scaled equally."""
    with _numpy():
        from tensorly.tenalg import svd_interface

        left, values, right = svd_interface(matrix, n_eigenvecs=rank)
    root = np.sqrt(values)
    return left * root, root[:, None] * right


def _tucker(kernel: Array, ranks: tuple[int, ...]) -> tuple[Array, tuple[Array, Array]]:
    """Core (b, a, height, width) and the factors of outputs (O, b) and inputs (I, a); ``ranks`` are (a, b)."""
    with _numpy():
        from tensorly.decomposition import partial_tucker

        (core, found), _ = partial_tucker(kernel, rank=[ranks[1], ranks[0]], modes=[0, 1], random_state=0)
    return core, (found[0], found[1])


def _cp(kernel: Array, rank: int, iterations: int) -> list[Array]:
    """The factors of outputs, inputs, height and width, (size, rank) each, scaled equally."""
    with _numpy():
        from tensorly.decomposition import parafac

        with warnings.catch_warnings():  # of a rank above the size of a dimension, which is usual here
            warnings.simplefilter("ignore", UserWarning)
            weights, found = parafac(
                kernel, rank=rank, n_iter_max=iterations, init="svd", tol=1e-7, random_state=0
            )
    lengths = [np.maximum(np.linalg.norm(each, axis=0), 1e-30) for each in found]
    size = np.prod([*lengths, np.asarray(weights)], axis=0)
    return [each / length * size ** (1 / len(found)) for each, length in zip(found, lengths, strict=True)]


@contextmanager
def _numpy() -> Iterator[Any]:
    """Context in which tensorly computes with numpy in this thread, whatever the program has chosen."""
    require_tensorly()
    import tensorly

    with tensorly.backend_context("numpy", local_threadsafe=True):
        yield
