"""Least squares from sums, on problems whose candidate solutions are computed one by one."""

from __future__ import annotations

import pytest
import torch

from prunelab.calibration.normal_equations import RIDGES, Sums, fitted


@pytest.mark.parametrize("noise", [0.01, 1.0, 30.0])
def test_the_ridge_is_the_best_of_all_though_not_all_are_tried(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(1, 3, 6, generator=generator, dtype=torch.float64)
    sums = Sums.zeros(4, 1, 6, 3, torch.device("cpu"))
    x = torch.randn(1, 40, 6, generator=generator).double()
    y = x @ weights.mT + noise * torch.randn(1, 40, 3, generator=generator).double()
    sums.add(x, y, 40)
    start = 0.8 * weights
    each = {ridge: fitted(sums, start, True, (ridge,)).after for ridge in RIDGES}
    found = fitted(sums, start, True)
    assert found.after == pytest.approx(min(*each.values(), found.before))
    assert found.after <= found.before
    if found.ridge != float("inf"):
        assert found.after == each[found.ridge]
