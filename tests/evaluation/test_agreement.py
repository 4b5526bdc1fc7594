from __future__ import annotations

import pytest
import torch
from torch import nn

from prunelab.errors import UserError
from prunelab.evaluation import compared


class Shifted(nn.Module):
    """Adds ``shift`` to its input."""

    def __init__(self, *shift: float) -> None:
        super().__init__()
        self.shift = torch.tensor(shift)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images + self.shift


IMAGES = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 4.0]])


def test_networks_are_compared_with_the_first_one_and_with_the_classes() -> None:
    batches = [(IMAGES[:2], torch.tensor([0, 0])), (IMAGES[2:], torch.tensor([1]))]
    first, second = compared([Shifted(0.0, 0.0), Shifted(2.0, 0.0)], batches)
    assert (first.images, first.agreement, first.largest_difference, first.largest_logit) == (
        3,
        1.0,
        0.0,
        4.0,
    )
    assert (second.agreement, second.largest_difference, second.largest_logit) == (2 / 3, 2.0, 5.0)
    assert (first.top1, second.top1, first.top5) == (2 / 3, 1.0, None)


def test_without_classes_there_is_no_accuracy() -> None:
    (only,) = compared([Shifted(0.0, 0.0)], [(IMAGES, None)])
    assert (only.top1, only.top5) == (None, None)


def test_no_images_and_outputs_that_are_not_finite_are_errors() -> None:
    with pytest.raises(UserError, match="no images"):
        compared([Shifted(0.0, 0.0)], [])
    with pytest.raises(UserError, match="NaN or infinity"):
        compared([Shifted(0.0, float("inf"))], [(IMAGES, None)])
