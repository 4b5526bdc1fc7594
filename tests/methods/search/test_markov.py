"""Chains of widths, compared with brute force over all paths."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from prunelab.methods.search.markov import MarkovWidths, grid


def _chains() -> MarkovWidths:
    chains = MarkovWidths({"a": np.array([1, 3, 4]), "b": np.array([2, 4, 6, 10])})
    with torch.no_grad():
        chains.logits.copy_(torch.tensor([[0.5, -1.0, 9.0], [2.0, 0.0, -0.5]]))
    return chains


def _distribution(chains: MarkovWidths, name: str) -> dict[int, float]:
    """Width -> probability, step by step along the chain."""
    widths = chains.widths[name].tolist()
    row = list(chains.widths).index(name)
    stays = [1 / (1 + np.exp(-float(logit))) for logit in chains.logits[row][: len(widths) - 1]]
    found = {}
    for last, width in enumerate(widths):
        stops = 1.0 if last == len(stays) else 1 - stays[last]
        found[width] = float(np.prod(stays[:last])) * stops
    return found


@pytest.mark.parametrize("name", ["a", "b"])
def test_expected_widths_are_those_of_all_paths(name: str) -> None:
    chains = _chains()
    distribution = _distribution(chains, name)
    assert sum(distribution.values()) == pytest.approx(1.0)
    expected = sum(width * chance for width, chance in distribution.items())
    assert float(chains.expected()[list(chains.widths).index(name)]) == pytest.approx(expected)


def test_gates_are_the_probabilities_that_channels_are_there() -> None:
    chains = _chains()
    distribution = _distribution(chains, "b")
    there = [sum(c for width, c in distribution.items() if width > channel) for channel in range(10)]
    assert chains.gates()["b"].tolist() == pytest.approx(there)
    assert chains.gates()["a"].shape == (4,)


def test_samples_follow_the_chain() -> None:
    chains, generator = _chains(), np.random.default_rng(0)
    drawn = [chains.sample(generator) for _ in range(4000)]
    for name, (width, chance) in product("ab", _distribution(chains, "a").items()):
        if name == "a":
            share = np.mean([widths["a"] == width for widths in drawn])
            assert share == pytest.approx(chance, abs=0.03)
    assert {widths["b"] for widths in drawn} == {2, 4, 6, 10}


def test_logits_of_zero_start_far_below_the_middle() -> None:
    """Ten equal widths: 0.1 + 0.1 (1/2 + 1/4 + ...) = 0.1998 of the channels."""
    chains = MarkovWidths({"a": np.arange(10, 101, 10)})
    assert float(chains.expected()[0]) == pytest.approx(19.98, abs=0.01)


def test_the_grid_has_equal_shares_among_the_allowed_widths() -> None:
    assert grid(np.arange(16, 1, -1), 4).tolist() == [4, 8, 12, 16]
    assert grid(np.array([16, 8]), 4).tolist() == [8, 16]
    assert grid(np.array([5]), 10).tolist() == [5]
