"""Proven ranks are right, and those of most matrices are proven."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunelab.methods.importance import hrank
from prunelab.methods.importance.kernels.proven_ranks import LANES, WIDEST, proven_ranks

EPS = float(np.finfo(np.float32).eps)


def exact_ranks(matrices: np.ndarray, tolerance: float) -> list[int]:
    values = np.linalg.svd(matrices.astype(np.float64), compute_uv=False)
    return [int((row > tolerance * row[0]).sum()) for row in values]


def with_singular_values(values: np.ndarray, height: int, rng: np.random.Generator) -> np.ndarray:
    left, _ = np.linalg.qr(rng.standard_normal((height, len(values))))
    right, _ = np.linalg.qr(rng.standard_normal((len(values), len(values))))
    return (left * values) @ right


def test_by_hand() -> None:
    matrices = np.zeros((7, 5, 3), np.float32)
    matrices[1, :3] = np.eye(3)  # independent
    matrices[2, 0, 1] = 2.0  # one column that is not zero
    matrices[3] = 1.0  # three equal columns: the residuals of the others are zero
    matrices[4, 0] = [1, 2, 3]
    matrices[4, 1] = [0, 1, 1]  # the third column is the sum of the others
    matrices[5, :3] = np.diag([1.0, 1e-3, 1e-9])  # far above and far below the tolerance
    matrices[6, :3] = np.diag([1.0, 1.0, 0.9e-6])  # too close to it
    assert proven_ranks(matrices, 1e-6).tolist() == [0, 3, 1, 1, 2, 2, -1]


@settings(max_examples=60)
@given(
    st.integers(1, 24),
    st.integers(0, 24),
    st.integers(1, 2 * LANES + 1),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_proven_ranks_are_right(width: int, taller: int, count: int, seed: int, near: bool) -> None:
    """Singular values over 14 orders of magnitude, or all within a factor of 100 of the tolerance."""
    rng = np.random.default_rng(seed)
    tolerance = (width + taller) * EPS
    spread = (np.log10(tolerance) - 2, np.log10(tolerance) + 2) if near else (-14, 0)
    matrices = np.empty((count, width + taller, width), np.float32)
    for matrix in matrices:
        values = np.concatenate([[1.0], 10 ** rng.uniform(*spread, width - 1)])
        matrix[:] = with_singular_values(values, width + taller, rng)
        matrix[:, rng.random(width) < 0.1] = 0
    expected = exact_ranks(matrices, tolerance)
    for found in (
        proven_ranks(matrices, tolerance),
        hrank._dependent_columns(torch.from_numpy(matrices), tolerance).tolist(),  # the proof on GPUs
    ):
        assert all(rank in (-1, right) for rank, right in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(8, 8), (14, 14), (32, 32), (31, 30), (WIDEST, WIDEST), (9, 5), (1, 1)])
def test_ranks_of_rectified_maps_are_proven(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    maps = np.maximum(rng.standard_normal((50, *shape)), 0).astype(np.float32)
    maps[::2, :, -1] = maps[::2, :, 0]
    maps[::5, 0] = 0
    found = proven_ranks(maps, shape[0] * EPS)
    proven = found >= 0
    assert proven.mean() >= 0.9
    assert found[proven].tolist() == np.array(exact_ranks(maps, shape[0] * EPS))[proven].tolist()


def test_nan_and_infinity_are_not_proven() -> None:
    matrices = np.ones((4, 4, 4), np.float32)
    matrices[1, 2, 2], matrices[2, 0, 0], matrices[3] = np.nan, np.inf, np.nan
    assert proven_ranks(matrices, 1e-6).tolist() == [1, -1, -1, -1]


def test_many_matrices_are_divided_among_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prunelab.methods.importance.kernels.proven_ranks.WORTH_A_THREAD", 1)
    matrices = np.random.default_rng(0).standard_normal((100, 6, 5)).astype(np.float32)
    matrices[::3, :, 1] = matrices[::3, :, 0]
    assert proven_ranks(matrices, 1e-6, threads=3).tolist() == [4 if i % 3 == 0 else 5 for i in range(100)]
    assert proven_ranks(matrices[:0], 1e-6, threads=3).tolist() == []


@pytest.mark.slow
def test_no_folder_for_compiled_code(tmp_path: Path) -> None:
    """An installation that cannot be written, and a user without a cache folder."""
    code = (
        "import numba.core.caching as caching\n"
        "caching.CacheImpl._locator_classes = []\n"
        "import numpy as np\n"
        "from prunelab.methods.importance.kernels.proven_ranks import proven_ranks\n"
        "print(proven_ranks(np.eye(3, dtype=np.float32)[None], 1e-6))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (done.stdout.strip(), done.returncode) == ("[3]", 0), done.stderr


@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (3, 2)])
def test_infinity_is_never_proven(shape: tuple[int, int]) -> None:
    """Also for maps of one column, whose sum of squares is infinite but not NaN."""
    matrices = np.full((1, *shape), np.inf, np.float32)
    assert proven_ranks(matrices, shape[0] * EPS).tolist() == [-1]
    for proof in (hrank._independent_columns, hrank._independent_rows, hrank._dependent_columns):
        assert proof(torch.from_numpy(matrices), shape[0] * EPS).tolist() == [-1]
