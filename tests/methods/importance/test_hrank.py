"""HRank, compared with one ``matrix_rank`` per map, and on maps of known rank."""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.methods import Budget, HRank, ImportanceMethod, PruningContext
from prunelab.methods.importance import kernels
from prunelab.methods.importance.hrank import MeanRank
from prunelab.methods.importance.kernels import proven_ranks

MakeContext = Callable[..., PruningContext]


def matrix_ranks(maps: Tensor) -> Tensor:
    """The ranks of maps (M, H, W), as the channels of one image."""
    metric = MeanRank(len(maps))
    metric.update(maps[None])
    return metric.compute()


def hide_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``import numba`` fail as in an environment without it, also for the kernel that is loaded already."""
    monkeypatch.setitem(sys.modules, "numba", None)
    monkeypatch.delitem(sys.modules, proven_ranks.__name__)
    monkeypatch.delattr(kernels, "proven_ranks")


def test_the_kernel_is_used_where_numba_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = proven_ranks.proven_ranks
    monkeypatch.setattr(
        proven_ranks, "proven_ranks", lambda *arguments: calls.append(1) or kernel(*arguments)
    )
    assert matrix_ranks(torch.eye(4)[None]) == 4 and calls
    calls.clear()
    hide_numba(monkeypatch)
    assert matrix_ranks(torch.eye(4)[None]) == 4 and not calls


def test_a_fault_of_the_kernel_is_not_taken_for_a_missing_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    hide_numba(monkeypatch)
    monkeypatch.setitem(sys.modules, proven_ranks.__name__, None)
    with pytest.raises(ModuleNotFoundError, match="proven_ranks"):
        matrix_ranks(torch.eye(4)[None])


def test_ranks_by_hand() -> None:
    maps = torch.zeros(6, 4, 4)
    maps[1] = torch.eye(4)
    maps[2, 1] = torch.tensor([1.0, 2.0, 3.0, 4.0])  # a single row
    maps[3] = 1.0  # all rows equal
    maps[4] = torch.outer(torch.arange(4.0), torch.ones(4))
    maps[4, 0, 0] = 1.0
    maps[5] = torch.diag(torch.tensor([1.0, 1e-6, 1e-7, 1e-8]))  # the tolerance is 4.8e-7
    assert matrix_ranks(maps).tolist() == [0, 4, 1, 1, 2, 2]


@pytest.mark.parametrize("shape", [(8, 8), (4, 7), (9, 5), (1, 6), (1, 1), (32, 32), (66, 70)])
@pytest.mark.parametrize("with_numba", [True, False])
def test_ranks_equal_one_call_per_map(
    shape: tuple[int, int], with_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_numba:
        hide_numba(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(12, *shape, generator=generator)
    thin = torch.randn(12, shape[0], 1, generator=generator) @ torch.randn(
        12, 1, shape[1], generator=generator
    )
    sparse = functional.relu(torch.randn(12, *shape, generator=generator) - 1.5)
    repeated = functional.relu(full).clone()
    repeated[:, -1] = repeated[:, 0]
    for maps in (full, thin, sparse, functional.relu(full), functional.relu(thin), repeated, 1e-20 * full):
        expected = [int(torch.linalg.matrix_rank(matrix)) for matrix in maps]
        assert matrix_ranks(maps).tolist() == expected


def test_scores_equal_the_plain_definition(
    plain: nn.Module, make_context: MakeContext, relu_maps: list[Tensor]
) -> None:
    scores = HRank().score(make_context(HRank(), plain)).channels
    for name, found in zip(["conv1", "conv2"], relu_maps, strict=True):
        expected = [
            np.mean([int(torch.linalg.matrix_rank(image[channel])) for image in found])
            for channel in range(found.shape[1])
        ]
        np.testing.assert_allclose(scores[name], expected)


def test_a_dead_channel_has_rank_zero_and_a_constant_one_rank_one(
    plain: nn.Module, make_context: MakeContext
) -> None:
    plain.norm1.weight.data[:2] = 0
    plain.norm1.bias.data[:2] = torch.tensor([-1.0, 1.0])
    scores = HRank().score(make_context(HRank(), plain)).channels["conv1"]
    assert scores[:2].tolist() == [0, 1] and (scores[2:] > 1).all()


def test_the_first_of_tied_channels_are_kept(plain: nn.Module, make_context: MakeContext) -> None:
    plain.norm1.weight.data.zero_()
    plain.norm1.bias.data.fill_(1.0)  # every map of conv1 is constant
    plan_context = make_context(HRank(), plain, allocation="uniform")
    plan = ImportanceMethod(HRank(), Budget(flops=0.5), allocation="uniform").decide(plan_context)
    kept = plan.kept["conv1"]
    assert kept == tuple(range(len(kept)))


def test_large_inputs_are_decomposed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    activations = functional.relu(torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0)))
    at_once, in_pieces = MeanRank(3), MeanRank(3)
    hide_numba(monkeypatch)
    at_once.update(activations)
    monkeypatch.setattr("prunelab.methods.importance.hrank._VALUES_AT_ONCE", 80)  # two maps
    in_pieces.update(activations)
    assert torch.equal(at_once.compute(), in_pieces.compute())


def close_to_the_tolerance(side: int) -> Tensor:
    """A map (1, 1, side, side) of rank side - 1: its last singular value is just below the tolerance."""
    values = torch.ones(side)
    values[-1] = 0.9 * side * torch.finfo(torch.float32).eps
    return torch.diag(values)[None, None]


def test_maps_that_need_singular_values_are_decomposed_later() -> None:
    metric = MeanRank(2)
    ranks = []
    for side in (4, 4, 6):  # maps of another size cannot be decomposed together
        left, full = close_to_the_tolerance(side), torch.eye(side)[None, None]
        assert proven_ranks.proven_ranks(left[0].numpy(), side * torch.finfo(torch.float32).eps).tolist() == [
            -1
        ]
        metric.update(torch.cat([full, left], dim=1))
        ranks.append((side, side - 1))
    assert metric.compute().tolist() == pytest.approx(np.mean(ranks, axis=0))
    metric.reset()
    metric.update(torch.cat([torch.eye(4)[None, None]] * 2, dim=1))
    assert metric.compute().tolist() == [4, 4]


def test_collected_maps_of_two_processes_are_in_the_ranks() -> None:
    metric = MeanRank(1)
    metric.update(close_to_the_tolerance(5))
    metric.sync(dist_sync_fn=lambda tensor, group: [tensor, tensor], distributed_available=lambda: True)
    assert (int(metric.ranks), int(metric.images)) == (8, 2)


@pytest.mark.parametrize("with_numba", [True, False])
def test_nan_is_reported_while_the_images_go_through(
    with_numba: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not with_numba:
        hide_numba(monkeypatch)
    maps = torch.eye(4).repeat(2, 3, 1, 1)
    maps[0, 1, 2, 2] = torch.nan
    with pytest.raises(torch.linalg.LinAlgError):
        MeanRank(3).update(maps)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_nan_is_reported_where_the_routines_of_a_gpu_do_not(
    wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On CUDA cholesky_ex counts a matrix with NaN as factorised (pytorch issue 64818); others may return NaN."""
    hide_numba(monkeypatch)
    factorise, eigenvalues = torch.linalg.cholesky_ex, torch.linalg.eigvalsh

    class Factorised:
        def __init__(self, matrices: Tensor, upper: bool) -> None:
            info = factorise(matrices, upper=upper).info
            self.info = info.masked_fill(~matrices.isfinite().all(dim=(1, 2)), 0)

    def values(matrices: Tensor) -> Tensor:
        sound = matrices.isfinite().all(dim=(1, 2))
        found = eigenvalues(matrices.where(sound[:, None, None], 1.0))
        return found.where(sound[:, None], torch.nan)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", Factorised)
    monkeypatch.setattr(torch.linalg, "eigvalsh", values)
    maps = torch.eye(4).repeat(2, 3, 1, 1)
    maps[0, 1, 2, 2] = wrong
    with pytest.raises(torch.linalg.LinAlgError):
        MeanRank(3).update(maps)
    assert matrix_ranks(torch.eye(4)[None]) == 4


def test_every_level_is_scored(residual: nn.Module, make_context: MakeContext) -> None:
    scores = HRank().score(make_context(HRank(), residual, levels=["filter", "stage", "block"]))
    assert len(scores.channels) == 4 and len(scores.blocks) == 3
    assert all(0 < score <= 5 for score in scores.blocks.values())  # maps are 5x5
