"""Distillation: the outputs of a trained network as additional targets of a training."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.training.losses import distillation


@dataclass(frozen=True)
class Distillation:
    """The use of a teacher in a training: ``(1 - weight) L + weight T^2 KL(teacher || student)``, L the loss of the
    labels.

    Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, arXiv:1503.02531; T is the temperature of both
    softmax functions, see ``prunelab.training.losses.distillation``.

    Attributes:
        weight: weight of the teacher's loss, in (0, 1].
        temperature: T, above 0.

    Raises:
        UserError: a number out of range.
    """

    weight: float
    temperature: float = 4.0

    def __post_init__(self) -> None:
        if not 0 < self.weight <= 1:
            raise UserError(f"distillation={self.weight} is not a weight above 0, at most 1.")
        if not self.temperature > 0:
            raise UserError(f"temperature={self.temperature}: use a number above 0.")


class Teacher:
    """A trained network, in evaluation mode and without gradients, whose outputs another network learns.

    It is not part of the trained module: checkpoints do not contain it, and DDP does not synchronise it.

    Args:
        network: the trained network, of which a copy is made; images (N, C, H, W) to logits (N, classes).
        settings: weight and temperature.
    """

    def __init__(self, network: nn.Module, settings: Distillation) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.settings = settings

    def loss(self, images: Tensor, logits: Tensor, of_labels: Tensor) -> Tensor:
        """The loss of a batch, a scalar.

        Args:
            images: (N, C, H, W).
            logits: those of the trained network for these images, (N, classes).
            of_labels: its loss for the labels, a scalar.
        """
        first = next(self.network.parameters(), None)
        if first is None or first.device != images.device:  # Module.to is slow, even if no tensor moves
            self.network.to(images.device)
        with torch.no_grad():
            wanted = self.network(images)
        weight = self.settings.weight
        return (1 - weight) * of_labels + weight * distillation(logits, wanted, self.settings.temperature)
