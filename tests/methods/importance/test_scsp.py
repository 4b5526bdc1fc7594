"""SCSP, compared with scikit-learn's spectral clustering, and on filters of known clusters."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.cluster import SpectralClustering
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import SCSP, PruningContext
from prunelab.methods.importance.scsp import affinities, spectral_clusters

MakeContext = Callable[..., PruningContext]


def test_affinities_by_hand() -> None:
    points = np.array([[0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])  # squared distances 0, 25, 25: median 25
    expected = np.full((3, 3), np.exp(-0.5))
    expected[:2, :2] = expected[2, 2] = 1
    np.testing.assert_allclose(affinities(points), expected)


def test_clusters_are_those_of_scikit_learn() -> None:
    generator = np.random.default_rng(0)
    centres = 6 * generator.normal(size=(4, 12))
    truth = generator.integers(4, size=40)
    points = centres[truth] + 0.5 * generator.normal(size=(40, 12))
    found = spectral_clusters(points, 4, restarts=10, seed=0)
    reference = SpectralClustering(4, affinity="precomputed", random_state=0).fit_predict(affinities(points))
    for other in (reference, truth):
        assert np.array_equal(found[:, None] == found[None, :], other[:, None] == other[None, :])


def test_a_cluster_stands_or_falls_by_its_mean_norm(plain: nn.Module, make_context: MakeContext) -> None:
    # Three pairs of equal directions with norms (1, 3), (2.5, 2.5) and (8, 8); the pairs are far apart.
    filters = torch.zeros(6, 36)
    filters[0, 0], filters[1, 0] = 1, 3
    filters[2:4, 10] = 2.5
    filters[4:, 20] = 8
    plain.conv2.weight.data.copy_(filters.reshape(6, 4, 3, 3))
    criterion = SCSP(clusters=0.5)
    scores = criterion.score(make_context(criterion, plain)).channels["conv2"]
    np.testing.assert_allclose(scores, [2, 2, 2.5, 2.5, 8, 8], rtol=1e-5)
    assert scores[0] < scores[1]  # a budget that ends inside the cluster removes the smaller filter


def test_equal_filters_cannot_be_told_apart(plain: nn.Module, make_context: MakeContext) -> None:
    plain.conv1.weight.data.fill_(0.5)
    scores = SCSP().score(make_context(SCSP(), plain)).channels["conv1"]
    np.testing.assert_allclose(scores, scores[0])


def test_every_level_has_scores_that_repeat_and_leave_no_trace(
    residual: nn.Module, make_context: MakeContext
) -> None:
    before = {name: tensor.clone() for name, tensor in residual.state_dict().items()}
    context = make_context(SCSP(), residual, levels=["filter", "stage", "block"])
    scores, again = SCSP().score(context), SCSP().score(context)
    assert scores.blocks == again.blocks and len(scores.blocks) == 3
    for name, channels in scores.channels.items():
        np.testing.assert_array_equal(channels, again.channels[name])
    assert all(torch.equal(tensor, before[name]) for name, tensor in residual.state_dict().items())


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="clusters=0 is not a fraction"):
        SCSP(clusters=0)
    with pytest.raises(UserError, match="restarts=0"):
        SCSP(restarts=0)
