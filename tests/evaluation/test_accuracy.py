"""Accuracies, compared with counts by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.evaluation import accuracy
from prunelab.records import Accuracy

CPU = torch.device("cpu")


class Ranking(nn.Module):
    """The logits are the images; in training mode they are wrong."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * (-1 if self.training else 1)


def batch(*rows: list[float], classes: list[int]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows)[:, :, None, None], torch.tensor(classes)


def test_top1_and_top5_over_batches_of_unequal_size() -> None:
    falling = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]  # class 0 is first, class 4 fifth, class 5 last
    batches = [batch(falling, falling, falling, classes=[0, 4, 5]), batch(falling, classes=[0])]
    assert accuracy(Ranking(), batches, 6, CPU) == Accuracy(top1=2 / 4, top5=3 / 4)


def test_fewer_than_five_classes_have_no_top5() -> None:
    assert accuracy(Ranking(), [batch([1.0, 2.0], classes=[1])], 2, CPU) == Accuracy(1.0, None)


def test_the_mode_of_the_network_is_unchanged() -> None:
    network = Ranking().train()
    accuracy(network, [batch([1.0, 2.0], classes=[1])], 2, CPU)
    assert network.training


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_outputs_that_are_not_finite_are_no_predictions(value: float) -> None:
    batches = [batch([1.0, 2.0], [value, 0.0], classes=[1, 0]), batch([0.0, 2.0], classes=[0])]
    with pytest.raises(UserError, match="NaN or infinity for 1 of 3 images"):
        accuracy(Ranking(), batches, 2, CPU)


def test_no_images_are_an_error() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        accuracy(Ranking(), [], 6, CPU)
