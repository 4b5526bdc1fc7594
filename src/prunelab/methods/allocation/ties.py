"""Scores that differ only by rounding count as equal, so that equal channels are treated alike on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

RELATIVE = 1e-6
"""Two scores are equal if they differ by less than this fraction of the larger one: a few roundings of float32."""

OF_THE_LARGEST = 1e-12
"""... or by less than this fraction of the largest score: scores near zero can be differences of larger numbers."""


def tied(scores: NDArray[Any]) -> NDArray[np.float64]:
    """``scores`` (n,), where all scores that are equal up to rounding are replaced by the largest of them.

    A stable sort of the result keeps the first of several equal channels. Different scores are returned unchanged.
    Infinite scores are equal only to themselves.

    Example:
        >>> tied(np.array([1.0, 2.0, 1.0 + 1e-9])).tolist()
        [1.000000001, 2.0, 1.000000001]
    """
    scores = np.array(scores, dtype=np.float64)
    finite = np.isfinite(scores)
    if not finite.any():
        return scores
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


def copies_by_index(order: NDArray[np.int64], *properties: NDArray[Any]) -> NDArray[np.int64]:
    """``order`` (n,), the best channel first, with channels that agree in all ``properties`` (n,) sorted by index. For
    selections in which exact copies of a channel compete.

    Example:
        >>> copies_by_index(np.array([3, 0, 1, 2]), np.array([5.0, 1.0, 2.0, 5.0])).tolist()
        [0, 3, 1, 2]
    """
    found = np.stack([tied(each) for each in properties], axis=1)
    labels = np.unique(found, axis=0, return_inverse=True)[1].reshape(-1)[order]
    result = order.copy()
    for label in np.flatnonzero(np.bincount(labels) > 1):
        places = np.flatnonzero(labels == label)
        result[places] = np.sort(order[places])
    return result
