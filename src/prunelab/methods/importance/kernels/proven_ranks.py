"""Ranks of thousands of small matrices on a CPU, 16 matrices at a time.

A library factors one matrix after the other; with 32 columns, only a small part of its time is arithmetic. Here each
step of the factorisation is a loop over 16 matrices, which numba compiles to vector instructions. The index of the
matrix is the last axis of every array: row i, column j is at ``[i * ROW + j * LANES :][:LANES]``. Indices are written
out, and parts are slices that begin at 0, because the compiler vectorises only arrays that provably do not overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

WIDEST = 64  # columns; a library is as fast for wider matrices
LANES = 16  # two vectors: a loop over a single one is unrolled instead of vectorised
# Stride of a row, in values. With a power of two, all rows would map to the same cache set.
ROW = (WIDEST + 1) * LANES
WORTH_A_THREAD = 1 << 18  # values: half a millisecond of work

Matrices = np.ndarray[Any, np.dtype[np.float32]]
Ranks = np.ndarray[Any, np.dtype[np.int64]]


def proven_ranks(matrices: Matrices, tolerance: float, threads: int = 1) -> Ranks:
    """For each matrix A (M, m, n), n <= WIDEST, the number (M,) of singular values above tolerance sigma_1.

    The number is -1 if it cannot be proven, for example with NaN. Many matrices are divided among ``threads``.

    Let t be the tolerance, G = A^T A in float64, s = t^2 trace(G) and P a set of columns. If G - s I is positive
    definite on P, all singular values of these columns are above t sqrt(trace(G)) >= t sigma_1, so that the rank is at
    least |P|. If P contains all columns that are not zero, |P| is the rank. It is also the rank if the squared
    residuals of the other columns, after elimination of P, sum to at most s / 2n, since t^2 sigma_1^2 >= s / n. P are
    the columns, in order, for which the pivot of a Cholesky factorisation of G - s I is positive. The rounding error of
    G is about 1e-16 of its trace, s / 2n above 1e-14 of it.
    """
    matrices = np.ascontiguousarray(matrices)
    ranks = np.empty(len(matrices), np.int64)

    def prove(part: slice) -> None:
        _ranks(matrices[part], tolerance**2, False, ranks[part])
        left = np.flatnonzero(ranks[part] < 0)
        if len(left):
            found = np.empty(len(left), np.int64)
            _ranks(matrices[part][left], tolerance**2, True, found)
            ranks[part][left] = found

    size = matrices.shape[1] * matrices.shape[2]
    share = math.ceil(max(len(matrices) / threads, WORTH_A_THREAD / size) / LANES) * LANES
    parts = [slice(first, first + share) for first in range(0, len(matrices), share)]
    if len(parts) < 2:
        for part in parts:
            prove(part)
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(prove, parts))
    return ranks


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function at its first call, with a cache on disk where one can be written."""
    try:
        return njit(function, cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
    except RuntimeError:  # "no locator available": no cache folder can be written
        return njit(function, nogil=True, fastmath={"contract"}, error_model="numpy")


@_compiled
def _ranks(matrices, squared_tolerance, measure_rest, found):  # type: ignore[no-untyped-def]
    """Ranks from the columns P and, if needed, from the residuals of the other columns."""
    count, height, width = matrices.shape
    size = (width + 3) // 4 * 4  # padded with columns of zeros
    values = _aligned((height + 3) // 4 * 4 * ROW)
    values[:] = 0
    gram, left, right = _aligned(size * ROW), _aligned(4 * ROW), _aligned(4 * ROW)
    chosen, factor = _aligned(size * LANES), _aligned(10 * LANES)
    trace, columns, number, rest = _aligned(LANES), _aligned(LANES), _aligned(LANES), _aligned(LANES)
    for first in range(0, count, LANES):
        _load(matrices, first, values)
        chosen[:] = 1
        _gram(values, height, gram, size, trace, columns)
        for i in range(size):
            for lane in range(LANES):
                gram[i * (ROW + LANES) + lane] -= squared_tolerance * trace[lane]
        _factor(gram, size, chosen, number, rest, factor, left, right)
        if measure_rest:
            _gram(values, height, gram, size, trace, columns)
            _factor(gram, size, chosen, number, rest, factor, left, right)
        for lane in range(min(LANES, count - first)):
            allowed = squared_tolerance * trace[lane] / (2 * width)
            proven = rest[lane] <= allowed if measure_rest else number[lane] == columns[lane]
            found[first + lane] = number[lane] if proven else -1


@_compiled
def _aligned(count):  # type: ignore[no-untyped-def]
    """An array of ``count`` values at an address that is a multiple of 64: no vector crosses a cache line."""
    array = np.empty(count + 7)
    start = -(array.ctypes.data // 8) % 8
    return array[start : start + count]


@_compiled
def _load(matrices, first, values):  # type: ignore[no-untyped-def]
    """Interleave 16 matrices, 8 values of each at a time; if there are fewer, the last one is repeated."""
    count, height, width = matrices.shape
    flat = matrices.reshape(-1)
    eights = width // 8 * 8
    for row in range(height):
        for column in range(0, eights, 8):
            for lane in range(LANES):
                at = (min(first + lane, count - 1) * height + row) * width + column
                to = row * ROW + column * LANES + lane
                for k in range(8):
                    values[np.uintp(to + k * LANES)] = flat[np.uintp(at + k)]
        for column in range(eights, width):
            for lane in range(LANES):
                at = (min(first + lane, count - 1) * height + row) * width + column
                values[np.uintp(row * ROW + column * LANES + lane)] = flat[np.uintp(at)]


@_compiled
def _gram(values, height, gram, size, trace, columns):  # type: ignore[no-untyped-def]
    """G, its trace, and the number of columns that are not zero (columns with NaN excluded)."""
    for i in range(size):
        gram[i * ROW + i // 4 * 4 * LANES : i * ROW + size * LANES] = 0
    _add_products(values, values, height, gram, 0, size)
    trace[:] = 0
    columns[:] = 0
    for i in range(size):
        diagonal = gram[i * (ROW + LANES) : i * (ROW + LANES) + LANES]
        for lane in range(LANES):
            trace[lane] += diagonal[lane]
            columns[lane] += diagonal[lane] != 0


@_compiled
def _factor(gram, size, chosen, number, rest, factor, left, right):  # type: ignore[no-untyped-def]
    """G = U^T D^-1 U, four rows of U at a time, without columns that are not chosen or whose pivot is not above 0.

    ``chosen`` is set to 0 for these columns; ``number`` counts the columns that remain, ``rest`` is the sum of the
    positive pivots of the others.
    """
    number[:] = 0
    rest[:] = 0
    for start in range(0, size, 4):
        below = gram[start * (ROW + LANES) :]
        _factor_diagonal(below, chosen[start * LANES : (start + 4) * LANES], number, rest, factor)
        _factor_rows(below, size - start, factor, left, right)
        _add_products(left, right, 4, below, 4, size - start)


@_compiled
def _factor_diagonal(gram, chosen, number, rest, factor):  # type: ignore[no-untyped-def]
    """The first four columns of four rows of U: writes -1 / d of each row, and -u / d of its other values, to
    ``factor``."""
    for lane in range(LANES):
        d0 = gram[lane]
        c0 = chosen[lane] if d0 > 0 else 0.0
        u01, u02, u03 = gram[LANES + lane], gram[2 * LANES + lane], gram[3 * LANES + lane]
        w0 = -c0 / (d0 if d0 > 0 else 1.0)
        v01, v02, v03 = u01 * w0, u02 * w0, u03 * w0
        d1 = gram[ROW + LANES + lane] + v01 * u01
        c1 = chosen[LANES + lane] if d1 > 0 else 0.0
        u12, u13 = gram[ROW + 2 * LANES + lane] + v01 * u02, gram[ROW + 3 * LANES + lane] + v01 * u03
        w1 = -c1 / (d1 if d1 > 0 else 1.0)
        v12, v13 = u12 * w1, u13 * w1
        d2 = gram[2 * ROW + 2 * LANES + lane] + v02 * u02 + v12 * u12
        c2 = chosen[2 * LANES + lane] if d2 > 0 else 0.0
        u23 = gram[2 * ROW + 3 * LANES + lane] + v02 * u03 + v12 * u13
        w2 = -c2 / (d2 if d2 > 0 else 1.0)
        v23 = u23 * w2
        d3 = gram[3 * ROW + 3 * LANES + lane] + v03 * u03 + v13 * u13 + v23 * u23
        c3 = chosen[3 * LANES + lane] if d3 > 0 else 0.0
        w3 = -c3 / (d3 if d3 > 0 else 1.0)
        factor[lane], factor[LANES + lane], factor[2 * LANES + lane], factor[3 * LANES + lane] = (
            w0,
            w1,
            w2,
            w3,
        )
        factor[4 * LANES + lane], factor[5 * LANES + lane], factor[6 * LANES + lane] = v01, v02, v03
        factor[7 * LANES + lane], factor[8 * LANES + lane], factor[9 * LANES + lane] = v12, v13, v23
        chosen[lane], chosen[LANES + lane], chosen[2 * LANES + lane], chosen[3 * LANES + lane] = (
            c0,
            c1,
            c2,
            c3,
        )
        number[lane] += c0 + c1 + c2 + c3
        left0, left1 = (0.0 if d0 <= 0 else d0 * (1 - c0)), (0.0 if d1 <= 0 else d1 * (1 - c1))
        left2, left3 = (0.0 if d2 <= 0 else d2 * (1 - c2)), (0.0 if d3 <= 0 else d3 * (1 - c3))
        rest[lane] += left0 + left1 + left2 + left3  # NaN is kept


@_compiled
def _factor_rows(gram, size, factor, left, right):  # type: ignore[no-untyped-def]
    """The other columns of four rows of U: writes u to ``right`` and -u / d to ``left``."""
    for j in range(4, size):
        g = gram[j * LANES : j * LANES + 4 * ROW]
        v = left[j * LANES : j * LANES + 4 * ROW]
        u = right[j * LANES : j * LANES + 4 * ROW]
        for lane in range(LANES):
            u0 = g[lane]
            u1 = g[ROW + lane] + factor[4 * LANES + lane] * u0
            u2 = g[2 * ROW + lane] + factor[5 * LANES + lane] * u0 + factor[7 * LANES + lane] * u1
            u3 = g[3 * ROW + lane] + factor[6 * LANES + lane] * u0 + factor[8 * LANES + lane] * u1
            u3 += factor[9 * LANES + lane] * u2
            u[lane], u[ROW + lane], u[2 * ROW + lane], u[3 * ROW + lane] = u0, u1, u2, u3
            v[lane], v[ROW + lane] = u0 * factor[lane], u1 * factor[LANES + lane]
            v[2 * ROW + lane], v[3 * ROW + lane] = (
                u2 * factor[2 * LANES + lane],
                u3 * factor[3 * LANES + lane],
            )


@_compiled
def _add_products(left_rows, right_rows, height, target, start, size):  # type: ignore[no-untyped-def]
    """target[i, j] += sum over ``height`` rows of left[k, i] right[k, j], start <= i <= j < size, in tiles of 4 x 4."""
    for i in range(start, size, 4):
        for j in range(i, size, 4):
            tile = target[i * ROW + j * LANES : i * ROW + j * LANES + 4 * ROW]
            for four in range(0, height, 4):
                left = left_rows[four * ROW + i * LANES : four * ROW + i * LANES + 4 * ROW]
                right = right_rows[four * ROW + j * LANES : four * ROW + j * LANES + 4 * ROW]
                for lane in range(LANES):
                    at00, at01 = tile[lane], tile[LANES + lane]
                    at02, at03 = tile[2 * LANES + lane], tile[3 * LANES + lane]
                    at10, at11 = tile[ROW + lane], tile[ROW + LANES + lane]
                    at12, at13 = tile[ROW + 2 * LANES + lane], tile[ROW + 3 * LANES + lane]
                    at20, at21 = tile[2 * ROW + lane], tile[2 * ROW + LANES + lane]
                    at22, at23 = tile[2 * ROW + 2 * LANES + lane], tile[2 * ROW + 3 * LANES + lane]
                    at30, at31 = tile[3 * ROW + lane], tile[3 * ROW + LANES + lane]
                    at32, at33 = tile[3 * ROW + 2 * LANES + lane], tile[3 * ROW + 3 * LANES + lane]
                    for k in range(4):
                        left0 = left[k * ROW + lane]
                        left1 = left[k * ROW + LANES + lane]
                        left2 = left[k * ROW + 2 * LANES + lane]
                        left3 = left[k * ROW + 3 * LANES + lane]
                        right0 = right[k * ROW + lane]
                        right1 = right[k * ROW + LANES + lane]
                        right2 = right[k * ROW + 2 * LANES + lane]
                        right3 = right[k * ROW + 3 * LANES + lane]
                        at00 += left0 * right0
                        at01 += left0 * right1
                        at02 += left0 * right2
                        at03 += left0 * right3
                        at10 += left1 * right0
                        at11 += left1 * right1
                        at12 += left1 * right2
                        at13 += left1 * right3
                        at20 += left2 * right0
                        at21 += left2 * right1
                        at22 += left2 * right2
                        at23 += left2 * right3
                        at30 += left3 * right0
                        at31 += left3 * right1
                        at32 += left3 * right2
                        at33 += left3 * right3
                    tile[lane], tile[LANES + lane] = at00, at01
                    tile[2 * LANES + lane], tile[3 * LANES + lane] = at02, at03
                    tile[ROW + lane], tile[ROW + LANES + lane] = at10, at11
                    tile[ROW + 2 * LANES + lane], tile[ROW + 3 * LANES + lane] = at12, at13
                    tile[2 * ROW + lane], tile[2 * ROW + LANES + lane] = at20, at21
                    tile[2 * ROW + 2 * LANES + lane], tile[2 * ROW + 3 * LANES + lane] = at22, at23
                    tile[3 * ROW + lane], tile[3 * ROW + LANES + lane] = at30, at31
                    tile[3 * ROW + 2 * LANES + lane], tile[3 * ROW + 3 * LANES + lane] = at32, at33
