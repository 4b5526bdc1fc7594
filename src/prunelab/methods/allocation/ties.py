"""Scores that differ by rounding only count as equal, so that equal channels are treated alike on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RELATIVE = 1e-6
"""Two scores are equal if they differ by less than this fraction of the larger one: some roundings of float32."""

OF_THE_LARGEST = 1e-12
"""... or by less than this fraction of the largest of all scores: scores near zero are differences of larger numbers."""


def tied(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """``scores`` (n,), where all scores that are equal up to rounding are replaced by the largest of them.

    A stable sort of the result keeps the first of several equal channels. Different scores are returned as they are.
    Infinite scores are equal to themselves alone.

    Example:
        >>> tied(np.array([1.0, 2.0, 1.0 + 1e-9])).tolist()
        [1.000000001, 2.0, 1.000000001]
    """
    scores = np.asarray(scores, dtype=np.float64)
    finite = np.isfinite(scores)
    if not finite.any():
        return scores.copy()
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    with np.errstate(invalid="ignore"):  # infinity - infinity
        gaps = falling[:-1] - falling[1:]
        sizes = np.maximum(np.abs(falling[:-1]), np.abs(falling[1:]))
        allowed = RELATIVE * sizes + OF_THE_LARGEST * np.abs(scores[finite]).max()
        starts = np.concatenate([[True], ~((gaps <= allowed) & np.isfinite(gaps))])
    firsts = falling[starts][np.cumsum(starts) - 1]
    result = np.empty_like(scores)
    result[order] = firsts
    return result
