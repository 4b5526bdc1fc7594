"""Criteria that read weights, by hand and on networks with a known answer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.methods import FPGM, BNGamma, L1Norm, L2Norm, PruningContext, Random
from prunelab.methods.importance.fpgm import distance_sums

MakeContext = Callable[..., PruningContext]

FILTERS = np.array([[3.0, -4.0], [0.0, 0.0], [3.0, -4.0], [0.0, 1.0]])
"""Four filters of a 1x1 convolution over two channels; the first and the third are equal, the second is
dead."""


def set_filters(convolution: nn.Conv2d, filters: np.ndarray) -> None:
    """Set every position of a kernel to the same weight, so that sums over a 3x3 kernel are nine times the
    given ones."""
    weights = torch.tensor(filters, dtype=torch.float32)[:, :, None, None]
    convolution.weight.data.copy_(weights.expand_as(convolution.weight))


def test_l1_by_hand(plain: nn.Module, make_context: MakeContext) -> None:
    set_filters(plain.conv1, FILTERS)
    scores = L1Norm().score(make_context(L1Norm(), plain))
    np.testing.assert_allclose(scores.channels["conv1"], [63, 0, 63, 9])


def test_l2_by_hand(plain: nn.Module, make_context: MakeContext) -> None:
    set_filters(plain.conv1, FILTERS)
    scores = L2Norm().score(make_context(L2Norm(), plain))
    np.testing.assert_allclose(scores.channels["conv1"], [15, 0, 15, 3])


def test_fpgm_by_hand(plain: nn.Module, make_context: MakeContext) -> None:
    set_filters(plain.conv1, FILTERS)
    scores = FPGM().score(make_context(FPGM(), plain))
    far = 3 * 34**0.5  # from (3, -4) to (0, 1), times the root of nine positions
    np.testing.assert_allclose(
        scores.channels["conv1"], [15 + far, 15 + 15 + 3, 15 + far, far + far + 3], rtol=1e-7
    )


def test_distance_sums_equal_a_plain_loop() -> None:
    points = np.random.default_rng(0).normal(size=(20, 30))
    expected = [sum(np.sqrt(((point - other) ** 2).sum()) for other in points) for point in points]
    np.testing.assert_allclose(distance_sums(points), expected, rtol=1e-9)


def test_equal_points_far_from_the_origin_have_no_distance() -> None:
    assert np.all(distance_sums(np.full((5, 3), 1e6)) < 1)


def test_fpgm_mix_drops_small_filters_first_and_ranks_the_others_among_themselves(
    plain: nn.Module, make_context: MakeContext
) -> None:
    filters = np.random.default_rng(1).normal(size=(6, 4))
    filters[4] *= 0.01  # the smallest, which is far from the median of the others
    set_filters(plain.conv2, filters)
    scores = FPGM(norm_rate=0.8).score(make_context(FPGM(), plain)).channels["conv2"]
    survivors = [0, 1, 2, 3, 5]
    assert scores.argmin() == 4
    np.testing.assert_allclose(scores[survivors], distance_sums(3 * filters[survivors]), rtol=1e-6)


def test_fpgm_removes_one_of_two_equal_filters(plain: nn.Module, make_context: MakeContext) -> None:
    filters = 10 * np.eye(6)[:, :4] + 1
    filters[5] = filters[4] = filters[:4].mean(axis=0)
    set_filters(plain.conv2, filters)
    scores = FPGM().score(make_context(FPGM(), plain)).channels["conv2"]
    assert set(np.argsort(scores)[:2]) == {4, 5}


def test_fpgm_checks_its_rate() -> None:
    with pytest.raises(UserError, match=r"norm_rate=0 "):
        FPGM(norm_rate=0)


def test_gamma_by_hand(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm1.weight.data = torch.tensor([0.5, -2.0, 0.0, 1.0])
    scores = BNGamma().score(make_context(BNGamma(), plain))
    np.testing.assert_allclose(scores.channels["conv1"], [0.5, 2.0, 0.0, 1.0])


def test_a_group_without_gamma_is_named_or_kept(make_context: MakeContext) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    with pytest.raises(UserError, match=r"scales group 3 of Sequential.*missing=keep"):
        BNGamma().score(make_context(BNGamma(), model))
    assert set(BNGamma(missing="keep").score(make_context(BNGamma(), model)).channels) == {"0"}
    with pytest.raises(UserError, match="missing: 'skip'"):
        BNGamma(missing="skip")  # type: ignore[arg-type]


@pytest.mark.parametrize(("reduction", "join"), [("mean", np.mean), ("sum", np.sum), ("max", np.max)])
def test_members_of_a_stage_are_joined(
    residual: nn.Module, make_context: MakeContext, reduction: str, join: Callable[..., np.ndarray]
) -> None:
    criterion = L1Norm(reduction=reduction)  # type: ignore[arg-type]
    scores = criterion.score(make_context(criterion, residual))
    convolutions = [residual.stem, *(block.conv2 for block in residual.blocks)]
    members = [conv.weight.detach().abs().sum(dim=(1, 2, 3)).numpy() for conv in convolutions]
    (stage,) = [name for name in scores.channels if not name.endswith("conv1")]
    np.testing.assert_allclose(scores.channels[stage], join(members, axis=0), rtol=1e-6)


def test_an_unknown_reduction_is_an_error() -> None:
    with pytest.raises(UserError, match=r"reduction: 'median' does not exist"):
        L1Norm(reduction="median")  # type: ignore[arg-type]


def test_a_block_is_judged_by_its_last_weights_among_its_stage(
    residual: nn.Module, make_context: MakeContext
) -> None:
    for block, scale in zip(residual.blocks, (1.0, 3.0, 0.0), strict=True):
        block.conv2.weight.data.fill_(scale)
        block.norm2.weight.data.fill_(scale)
    residual.stem.weight.data.fill_(
        4 * residual.blocks[0].conv2.weight[0].numel() / residual.stem.weight[0].numel()
    )
    residual.norm.weight.data.fill_(4.0)
    for criterion in (L1Norm(), BNGamma()):
        blocks = criterion.score(make_context(criterion, residual, levels=["block"])).blocks
        assert blocks == pytest.approx(
            {"blocks.0": 0.5, "blocks.1": 1.5, "blocks.2": 0.0}
        )  # 1, 3, 0 over a mean of 2


def test_only_what_may_be_removed_is_scored(residual: nn.Module, make_context: MakeContext) -> None:
    scores = L1Norm().score(make_context(L1Norm(), residual, levels=["filter"]))
    assert set(scores.channels) == {"blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"}
    assert scores.blocks == {}


def test_random_scores_depend_only_on_seed_and_name(residual: nn.Module, make_context: MakeContext) -> None:
    everything = Random().score(make_context(Random(), residual, levels=["filter", "stage", "block"], seed=4))
    part = Random().score(make_context(Random(), residual, levels=["filter"], seed=4))
    other = Random().score(make_context(Random(), residual, levels=["filter"], seed=5))
    for name, scores in part.channels.items():
        np.testing.assert_array_equal(scores, everything.channels[name])
        assert not np.array_equal(scores, other.channels[name])
        assert np.all((scores > 0) & (scores <= 1))
    assert len(set(everything.blocks.values())) == 3
