"""Ranks of thousands of small matrices on a processor, 16 side by side.

A library factors one matrix after the other, and for 32 columns spends little of its time on arithmetic. Here a step
of the factorisation is a loop over 16 matrices, which numba compiles to vector instructions. The matrix is the last
axis of every array: row i, column j is at ``[i * ROW + j * LANES :][:LANES]``. Indices are written out, and parts are
slices that begin at 0, because the compiler makes vectors only of what it can prove not to overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numba import njit

WIDEST = 64  # columns; a library is as fast for wider matrices
LANES = 16  # two vectors: the compiler unrolls a loop over one before it would make a vector of it
# Values from row to row. With a power of two, rows would compete for one place in the cache.
ROW = (WIDEST + 1) * LANES
WORTH_A_THREAD = 1 << 18  # values: half a millisecond of work

Matrices = np.ndarray[Any, np.dtype[np.float32]]
Ranks = np.ndarray[Any, np.dtype[np.int64]]


def proven_ranks(matrices: Matrices, tolerance: float, threads: int = 1) -> Ranks:
    """Of each matrix A (M, m, n), n <= WIDEST, the number (M,) of singular values above tolerance sigma_1.

    -1 where it cannot be proven, as with NaN. ``threads`` share the matrices if they are many.

    With t the tolerance, G = A^T A in float64, s = t^2 trace(G) and P some columns: if G - s I is positive definite on
    P, all singular values of these columns are above t sqrt(trace(G)) >= t sigma_1, so that the rank is at least |P|.
    If P are all columns that are not zero, this is the rank. It is too if what P leaves of the squares of the other
    columns is in sum at most s / 2n, since t^2 sigma_1^2 >= s / n. P are the columns in order for which the pivot of a
    Cholesky factorisation of G - s I is positive. Rounding in G is some 1e-16 of its trace, s / 2n above 1e-14 of it.
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
    """Compiled when it is called first; kept on disk for the next process, where there is a place to write."""
    try:
        return njit(function, cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
    except RuntimeError:  # "no locator available": neither beside this file nor in the user's cache
        return njit(function, nogil=True, fastmath={"contract"}, error_model="numpy")


@_compiled
def _ranks(matrices, squared_tolerance, measure_rest, found):  # type: ignore[no-untyped-def]
    """Ranks by the columns P alone, or by what they leave of the others, too."""
    count, height, width = matrices.shape
    size = (width + 3) // 4 * 4  # columns of zeros fill the last four
    values = np.zeros((height + 3) // 4 * 4 * ROW)
    gram, four_rows, factor = np.empty(size * ROW), np.empty(4 * ROW), np.empty(10 * LANES)
    chosen, rest = np.empty(size * LANES), np.empty(LANES)
    trace, columns = np.empty(LANES), np.empty(LANES)
    for first in range(0, count, LANES):
        _load(matrices, first, values)
        chosen[:] = 1
        _gram(values, height, gram, size, trace, columns)
        for i in range(size):
            for lane in range(LANES):
                gram[i * (ROW + LANES) + lane] -= squared_tolerance * trace[lane]
        _factor(gram, size, chosen, rest, factor, four_rows)
        if measure_rest:
            _gram(values, height, gram, size, trace, columns)
            _factor(gram, size, chosen, rest, factor, four_rows)
        for lane in range(min(LANES, count - first)):
            rank = chosen[lane::LANES].sum()
            allowed = squared_tolerance * trace[lane] / (2 * width)
            proven = rest[lane] <= allowed if measure_rest else rank == columns[lane]
            found[first + lane] = rank if proven else -1


@_compiled
def _load(matrices, first, values):  # type: ignore[no-untyped-def]
    """Put 16 matrices side by side, the last one again where there are fewer, 16 values of each at a time."""
    count, height, width = matrices.shape
    for row in range(height):
        for start in range(0, width, 16):
            for lane in range(LANES):
                matrix = matrices[min(first + lane, count - 1), row, start : start + 16]
                to = values[row * ROW + start * LANES + lane :]
                if len(matrix) == 16:  # of this loop the compiler knows the length
                    for column in range(16):
                        to[column * LANES] = matrix[column]
                else:
                    for column in range(len(matrix)):
                        to[column * LANES] = matrix[column]


@_compiled
def _gram(values, height, gram, size, trace, columns):  # type: ignore[no-untyped-def]
    """G, its trace, and how many columns are not zero (a column with NaN is not)."""
    for i in range(size):
        gram[i * (ROW + LANES) : i * ROW + size * LANES] = 0
    _subtract_products(values, height, gram, 0, size)
    trace[:] = 0
    columns[:] = 0
    for i in range(size):
        row = gram[i * (ROW + LANES) : i * ROW + size * LANES]
        for at in range(len(row)):
            row[at] = -row[at]
        for lane in range(LANES):
            trace[lane] += row[lane]
            columns[lane] += row[lane] != 0


@_compiled
def _factor(gram, size, chosen, rest, factor, four_rows):  # type: ignore[no-untyped-def]
    """Cholesky factorisation, four rows at a time, without columns that are not chosen or whose pivot is not above 0.

    ``chosen`` becomes 0 for these; ``rest`` is the sum of the positive pivots of those left out.
    """
    rest[:] = 0
    for start in range(0, size, 4):
        below = gram[start * (ROW + LANES) :]
        _factor_diagonal(below, chosen[start * LANES : (start + 4) * LANES], rest, factor)
        _factor_rows(below, size - start, factor, four_rows)
        _subtract_products(four_rows, 4, below, 4, size - start)


@_compiled
def _factor_diagonal(gram, chosen, rest, factor):  # type: ignore[no-untyped-def]
    """The first four columns of the first four rows: 1 / diagonal of the factor, then its other values, row by row."""
    for lane in range(LANES):
        d0 = gram[lane]
        c0 = chosen[lane] if d0 > 0 else 0.0
        r0 = c0 / np.sqrt(d0 if d0 > 0 else 1.0)
        u01, u02, u03 = gram[LANES + lane] * r0, gram[2 * LANES + lane] * r0, gram[3 * LANES + lane] * r0
        d1 = gram[ROW + LANES + lane] - u01 * u01
        c1 = chosen[LANES + lane] if d1 > 0 else 0.0
        r1 = c1 / np.sqrt(d1 if d1 > 0 else 1.0)
        u12 = (gram[ROW + 2 * LANES + lane] - u01 * u02) * r1
        u13 = (gram[ROW + 3 * LANES + lane] - u01 * u03) * r1
        d2 = gram[2 * ROW + 2 * LANES + lane] - u02 * u02 - u12 * u12
        c2 = chosen[2 * LANES + lane] if d2 > 0 else 0.0
        r2 = c2 / np.sqrt(d2 if d2 > 0 else 1.0)
        u23 = (gram[2 * ROW + 3 * LANES + lane] - u02 * u03 - u12 * u13) * r2
        d3 = gram[3 * ROW + 3 * LANES + lane] - u03 * u03 - u13 * u13 - u23 * u23
        c3 = chosen[3 * LANES + lane] if d3 > 0 else 0.0
        r3 = c3 / np.sqrt(d3 if d3 > 0 else 1.0)
        factor[lane], factor[LANES + lane], factor[2 * LANES + lane], factor[3 * LANES + lane] = (
            r0,
            r1,
            r2,
            r3,
        )
        factor[4 * LANES + lane], factor[5 * LANES + lane], factor[6 * LANES + lane] = u01, u02, u03
        factor[7 * LANES + lane], factor[8 * LANES + lane], factor[9 * LANES + lane] = u12, u13, u23
        chosen[lane], chosen[LANES + lane], chosen[2 * LANES + lane], chosen[3 * LANES + lane] = (
            c0,
            c1,
            c2,
            c3,
        )
        left0, left1 = (0.0 if d0 <= 0 else d0 * (1 - c0)), (0.0 if d1 <= 0 else d1 * (1 - c1))
        left2, left3 = (0.0 if d2 <= 0 else d2 * (1 - c2)), (0.0 if d3 <= 0 else d3 * (1 - c3))
        rest[lane] += left0 + left1 + left2 + left3  # a NaN stays one


@_compiled
def _factor_rows(gram, size, factor, rows):  # type: ignore[no-untyped-def]
    """The other columns of the factor's first four rows, into ``rows``."""
    for j in range(4, size):
        g = gram[j * LANES : j * LANES + 4 * ROW]
        u = rows[j * LANES : j * LANES + 4 * ROW]
        for lane in range(LANES):
            u0 = g[lane] * factor[lane]
            u1 = (g[ROW + lane] - factor[4 * LANES + lane] * u0) * factor[LANES + lane]
            u2 = g[2 * ROW + lane] - factor[5 * LANES + lane] * u0 - factor[7 * LANES + lane] * u1
            u2 *= factor[2 * LANES + lane]
            u3 = g[3 * ROW + lane] - factor[6 * LANES + lane] * u0 - factor[8 * LANES + lane] * u1
            u3 = (u3 - factor[9 * LANES + lane] * u2) * factor[3 * LANES + lane]
            u[lane], u[ROW + lane], u[2 * ROW + lane], u[3 * ROW + lane] = u0, u1, u2, u3


@_compiled
def _subtract_products(rows, height, target, start, size):  # type: ignore[no-untyped-def]
    """target[i, j] -= sum over ``height`` rows of rows[k, i] rows[k, j], start <= i <= j < size, in tiles of 4 x 4."""
    for i in range(start, size, 4):
        for j in range(i, size, 4):
            tile = target[i * ROW + j * LANES : i * ROW + j * LANES + 4 * ROW]
            for four in range(0, height, 4):
                left = rows[four * ROW + i * LANES : four * ROW + i * LANES + 4 * ROW]
                right = rows[four * ROW + j * LANES : four * ROW + j * LANES + 4 * ROW]
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
                        at00 -= left0 * right0
                        at01 -= left0 * right1
                        at02 -= left0 * right2
                        at03 -= left0 * right3
                        at10 -= left1 * right0
                        at11 -= left1 * right1
                        at12 -= left1 * right2
                        at13 -= left1 * right3
                        at20 -= left2 * right0
                        at21 -= left2 * right1
                        at22 -= left2 * right2
                        at23 -= left2 * right3
                        at30 -= left3 * right0
                        at31 -= left3 * right1
                        at32 -= left3 * right2
                        at33 -= left3 * right3
                    tile[lane], tile[LANES + lane] = at00, at01
                    tile[2 * LANES + lane], tile[3 * LANES + lane] = at02, at03
                    tile[ROW + lane], tile[ROW + LANES + lane] = at10, at11
                    tile[ROW + 2 * LANES + lane], tile[ROW + 3 * LANES + lane] = at12, at13
                    tile[2 * ROW + lane], tile[2 * ROW + LANES + lane] = at20, at21
                    tile[2 * ROW + 2 * LANES + lane], tile[2 * ROW + 3 * LANES + lane] = at22, at23
                    tile[3 * ROW + lane], tile[3 * ROW + LANES + lane] = at30, at31
                    tile[3 * ROW + 2 * LANES + lane], tile[3 * ROW + 3 * LANES + lane] = at32, at33
