"""Scores that differ by rounding count as equal; of equal channels the first one is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunelab.methods.allocation.scores import Scores
from prunelab.methods.allocation.ties import RELATIVE, tied


@given(
    st.lists(st.floats(-1e3, 1e3).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1, max_size=20),
    st.integers(0, 9),
)
def test_rounding_does_not_change_the_order(values: list[float], seed: int) -> None:
    """Values on a grid that is far coarser than rounding, each several times, with noise of a few float32 roundings."""
    found = np.repeat(np.round(np.array(values), 1), 3)
    found = np.random.default_rng(seed).permutation(found)
    noise = np.random.default_rng(seed).uniform(-1, 1, len(found))
    noisy = found * (1 + 0.2 * RELATIVE * noise)
    assert (
        Scores({"a": noisy}).removal_order("a").tolist() == Scores({"a": found}).removal_order("a").tolist()
    )


def test_different_scores_are_unchanged() -> None:
    scores = np.array([3.0, 1.0, 1.00001, -2.0, 0.0, np.inf])
    assert tied(scores).tolist() == scores.tolist()


@pytest.mark.parametrize("noise", [1e-9, -1e-9])
def test_the_first_of_two_nearly_equal_channels_is_kept(noise: float) -> None:
    assert Scores({"a": np.array([1.0, 1.0 + noise, 2.0])}).removal_order("a").tolist() == [1, 0, 2]


def test_scores_that_encode_an_order_keep_it() -> None:
    rising = np.array([1.0, np.nextafter(1.0, 2), 2.0])
    assert Scores({"a": rising}, are_order=True).removal_order("a").tolist() == [0, 1, 2]
