"""Each rule on Gram matrices with a known answer, and compared with plain loops over samples."""

from __future__ import annotations

import numpy as np
import pytest

from prunelab.errors import UserError
from prunelab.methods.reconstruction import ChannelPruning, Reading, Subspace, ThiNet
from prunelab.methods.reconstruction.channel_pruning import lasso_order
from prunelab.methods.reconstruction.subspace import clusters, medoid, self_expression
from prunelab.methods.reconstruction.thinet import removal_order, selection_order


def samples(channels: int = 7, rows: int = 60) -> np.ndarray:
    """Contributions (rows, channels), correlated."""
    generator = np.random.default_rng(1)
    return generator.normal(size=(rows, channels)) @ generator.normal(size=(channels, channels))


def reading(maps: np.ndarray, weights: np.ndarray | None = None) -> Reading:
    """The reading of maps (rows, channels) by one output with these weights."""
    weights = np.ones(maps.shape[1]) if weights is None else weights
    parts = maps * weights
    gram = parts.T @ parts
    return Reading(gram / gram.sum(), maps.T @ maps / np.sum(maps**2), np.abs(weights), seed=0)


def test_removal_is_the_greedy_of_the_paper() -> None:
    columns = samples()
    removed: list[int] = []
    for _ in range(columns.shape[1]):
        left = [i for i in range(columns.shape[1]) if i not in removed]
        removed.append(min(left, key=lambda i: np.sum(columns[:, [*removed, i]].sum(axis=1) ** 2)))
    assert removal_order(columns.T @ columns).tolist() == removed


def test_removal_by_hand() -> None:
    # Channels 0 and 1 cancel; channel 2 is the smallest and is removed first; of the equal 0 and 1 the last one is
    # removed.
    columns = np.array([[3.0, -3, 0, 0], [0, 0, 1, 0], [0, 0, 0, 5]])
    assert removal_order(columns.T @ columns).tolist() == [2, 1, 0, 3]


def test_selection_is_the_greedy_of_the_paper() -> None:
    columns = samples()
    target = columns.sum(axis=1)
    residual, selected = target, []
    for _ in range(columns.shape[1]):
        left = [i for i in range(columns.shape[1]) if i not in selected]

        def error(i: int, residual: np.ndarray = residual) -> float:
            x = columns[:, i]
            return float(np.sum((residual - (x @ residual) / (x @ x) * x) ** 2))

        selected.append(min(left, key=error))
        chosen = columns[:, selected]
        residual = target - chosen @ np.linalg.lstsq(chosen, target, rcond=None)[0]
    # The last one explains nothing of the residual: every order of ties is greedy.
    assert selection_order(columns.T @ columns).tolist()[:-1] == selected[:-1]


@pytest.mark.parametrize("rule", [ThiNet(), ThiNet("selection"), ChannelPruning()])
def test_a_score_is_the_error_that_is_left_without_the_channel_and_all_below_it(rule: ThiNet) -> None:
    maps = np.diag([1.0, 3.0, 2.0, 0.0])  # contributions of energy 1, 9, 4, 0, orthogonal
    scores = rule.score(reading(maps))
    assert np.argsort(-scores).tolist() == [1, 2, 0, 3]
    assert np.allclose(scores, [1 / 14, 1, 5 / 14, 0])


def test_the_lasso_uses_weights_unscaled_or_of_norm_one() -> None:
    # Orthogonal contributions of energy 4.41, 4, 3.24. Channel 1 reads a loud map with small weights: with |W_i| = 1
    # its regressor is the largest, so that it enters first; with unscaled weights the one of largest energy does.
    maps, weights = np.diag([1.0, 4.0, 2.0]), np.array([2.1, 0.5, 0.9])
    found = reading(maps, weights)
    assert np.argsort(-ChannelPruning().score(found)).tolist() == [0, 1, 2]
    assert np.argsort(-ChannelPruning(unit_weights=True).score(found)).tolist() == [1, 2, 0]
    assert lasso_order(found.contributions, found.norms).tolist() == [1, 2, 0]


def test_the_lasso_order_is_that_of_coordinate_descent() -> None:
    from sklearn.linear_model import lasso_path

    columns = samples(6)
    strongest = np.abs(columns.T @ columns.sum(axis=1)).max() / len(columns)
    _, path, _ = lasso_path(columns, columns.sum(axis=1), alphas=strongest * np.geomspace(1, 1e-5, 400))
    first = np.array([np.argmax(row != 0) for row in path])
    order = lasso_order(columns.T @ columns, np.ones(6))
    assert (np.diff(first[order]) >= 0).all()


@pytest.mark.parametrize("rule", [ThiNet("selection"), ChannelPruning()])
def test_one_of_two_equal_contributions_is_removed_first(rule: ThiNet) -> None:
    columns = samples(5)
    columns = np.concatenate([columns, columns[:, [2]]], axis=1)
    scores = rule.score(reading(columns))
    assert int(np.argmin(scores)) in (2, 5) and scores.min() < 1e-9


@pytest.fixture
def planes() -> np.ndarray:
    """Seven maps: 0, 1, 2 in one plane, 3, 4, 5 in another, 6 alone."""
    generator = np.random.default_rng(0)
    basis = np.linalg.qr(generator.normal(size=(50, 5)))[0]
    one = basis[:, :2] @ np.array([[1, 0.0, 0.8], [0, 1.0, 0.6]])
    two = basis[:, 2:4] @ np.array([[1, 0.2, 0.7], [0, 1.0, 0.7]])
    return np.concatenate([one, two, basis[:, 4:]], axis=1)


def test_maps_of_one_subspace_fall_into_one_cluster(planes: np.ndarray) -> None:
    gram = reading(planes).maps * np.sum(planes**2)
    scale = np.sqrt(np.diag(gram))
    mixture = self_expression(gram / np.outer(scale, scale), 0.05)
    assert np.allclose(np.diag(mixture), 0) and np.abs(mixture[:3, 3:]).max() < 1e-9
    labels = clusters(np.abs(mixture), 3, seed=0)
    assert len(set(labels[:3])) == len(set(labels[3:6])) == 1
    assert len({labels[0], labels[3], labels[6]}) == 3


def test_expressions_meet_the_conditions_of_the_optimum() -> None:
    """Lasso: the gradient is -lambda sign(c) where c is not zero, and within lambda elsewhere."""
    maps = np.concatenate([samples(), np.zeros((60, 1)), samples() + 0.1 * samples(7)[:, ::-1]], axis=1)
    norms = np.linalg.norm(maps, axis=0)
    correlations = (maps / np.where(norms > 0, norms, 1)).T @ (maps / np.where(norms > 0, norms, 1))
    mixture = self_expression(correlations, 0.05)
    assert not mixture[:, 7].any() and not mixture[7].any()
    for column in np.delete(np.arange(15), 7):
        others = np.delete(np.arange(15), column)
        penalty = 0.05 * np.abs(correlations[others, column]).max()
        gradient = (correlations @ mixture[:, column] - correlations[:, column])[others]
        coefficients = mixture[others, column]
        active = coefficients != 0
        assert active.any()
        np.testing.assert_allclose(gradient[active], -penalty * np.sign(coefficients[active]), atol=1e-4)
        assert np.abs(gradient[~active]).max(initial=0) <= penalty + 1e-4


def test_each_cluster_keeps_its_medoid(planes: np.ndarray) -> None:
    kept = Subspace().choose(reading(planes), np.array([0, 1, 2]))
    assert len(kept) == 3 and 2 in kept and 6 in kept  # map 2 lies between 0 and 1
    assert medoid(np.array([[1.0, 0.1, 0.6], [0.1, 1, 0.7], [0.6, 0.7, 1]]), np.arange(3)) == 2


def test_maps_expressed_by_others_have_the_lowest_scores(planes: np.ndarray) -> None:
    scores = Subspace().score(reading(planes))
    assert int(np.argmax(scores)) == 6 and scores[6] == pytest.approx(1)
    assert scores[:6].max() < 0.3


def test_silent_maps_go_first(planes: np.ndarray) -> None:
    planes = planes.copy()
    planes[:, [1, 5]] = 0
    assert Subspace().choose(reading(planes), np.arange(5)).tolist() == [0, 2, 3, 4, 6]
    assert Subspace().choose(reading(planes), np.arange(6)).tolist() == [0, 1, 2, 3, 4, 6]
    assert not {1, 5} & set(Subspace().choose(reading(planes), np.arange(3)).tolist())


def test_settings_out_of_range() -> None:
    with pytest.raises(UserError, match="variant: 'remove' does not exist"):
        ThiNet("remove")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="sparsity=1"):
        Subspace(sparsity=1.0)
