"""Group lasso: norms, subgradient and proximal step by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.methods.learning.group_lasso import GroupLasso, Term, WeightGroups
from prunelab.structure import Slice

WEIGHT = torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.6, 0.8]])
"""Three rows with norms 5, 0 and 1."""


class Matrix(nn.Module):
    def __init__(self, weight: Tensor = WEIGHT) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())


def rows(weight: Tensor = WEIGHT) -> WeightGroups:
    index = np.arange(len(weight))[:, None]
    return WeightGroups.of_channels(Slice("weight", 0, "producer", index), weight)


def lasso(strength: float, **settings: Any) -> GroupLasso:
    return GroupLasso([Term(rows(), strength)], **settings)


def test_channels_may_own_several_positions_and_leave_some_to_others() -> None:
    part = Slice("weight", 1, "consumer", np.array([[0, 2], [1, 4]]))
    weight = torch.tensor([[3.0, 1.0, 0.0, 9.0, 0.0], [0.0, 0.0, 4.0, 9.0, 0.0]])
    groups = WeightGroups.of_channels(part, weight)
    assert groups.norms(weight).tolist() == [5.0, 1.0]
    assert groups.spread(torch.tensor([10.0, 20.0]), -1.0, weight).tolist() == [[10, 20, 10, -1, 20]]


def test_a_cell_is_one_offset_of_one_input_channel_over_all_filters() -> None:
    weight = torch.randn(5, 2, 3, 3)
    groups = WeightGroups.of_cells("weight", weight)
    assert groups.count == 18
    assert torch.allclose(groups.norms(weight), weight.flatten(1).norm(dim=0))
    assert torch.allclose(WeightGroups.of_all("weight", weight).norms(weight), weight.norm())


def test_the_proximal_step_shortens_each_group_by_rate_times_strength() -> None:
    matrix = Matrix()
    lasso(20.0).after_step(matrix, {matrix.weight: 0.05})  # by 1
    assert torch.allclose(matrix.weight, torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]]))
    assert lasso(20.0).zero_fraction(matrix) == pytest.approx(2 / 3)


def test_the_subgradient_is_the_strength_along_each_group_and_zero_at_zero() -> None:
    matrix = Matrix()
    matrix.weight.grad = torch.ones_like(WEIGHT)
    lasso(10.0, step="subgradient").before_step(matrix)
    assert torch.allclose(matrix.weight.grad, torch.tensor([[7.0, 9.0], [1.0, 1.0], [7.0, 9.0]]))


def test_the_subgradient_is_that_of_autograd() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 2, requires_grad=True)
    (0.3 * weight.norm(dim=1).sum()).backward()
    matrix = Matrix(weight.detach())
    matrix.weight.grad = torch.zeros(3, 2)
    lasso(0.3, step="subgradient").before_step(matrix)
    assert torch.allclose(matrix.weight.grad, weight.grad)


def test_small_weights_snap_to_zero_with_subgradients_only() -> None:
    weight = torch.tensor([[1e-5, 5.0], [9e-5, -9e-5], [2e-4, -1e-4]])
    matrix = Matrix(weight)
    lasso(1.0, step="subgradient").after_step(matrix, {matrix.weight: 0.0})
    assert torch.equal(matrix.weight, torch.tensor([[0.0, 5.0], [0.0, 0.0], [2e-4, -1e-4]]))
    matrix = Matrix(weight)
    lasso(1.0).after_step(matrix, {matrix.weight: 0.0})
    assert torch.equal(matrix.weight, weight)


@pytest.mark.parametrize(
    ("settings", "message"), [({"step": "proximl"}, "Did you mean 'proximal'"), ({"snap": -1}, "snap=-1")]
)
def test_impossible_settings_are_errors(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GroupLasso((), **settings)
