"""Hyperparameters of a training, checked when they are set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from prunelab.errors import UserError, nearest

OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["cosine", "multistep", "one_cycle", "constant"]


@dataclass(frozen=True)
class Training:
    """Optimizer, learning-rate schedule and loss of one ``Trainer.fit``.

    Attributes:
        epochs: passes over the training set; pass the same number to the Trainer as ``max_epochs``.
        optimizer: "sgd" (with ``momentum`` and ``nesterov``) or "adamw" (which ignores both).
        lr: the highest learning rate; the schedule multiplies it by a factor in [0, 1].
        weight_decay: weight decay of all parameters, or only of convolution and linear weights if
            ``decay_norm_and_bias`` is false.
        schedule: the learning-rate schedule; see ``prunelab.training.schedule``.
        milestones: for "multistep", the epochs at which the rate is multiplied by ``gamma``.
        warmup_epochs: length of the linear warm-up from 0; for "one_cycle" of its rise (0: 30 % of all epochs).
        label_smoothing: fraction of the target that is distributed evenly over all classes (Szegedy et al. 2016,
            section 7).

    Raises:
        UserError: a number out of range or an unknown name, with the value that was given.
    """

    epochs: int
    optimizer: OptimizerName = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 1e-4
    decay_norm_and_bias: bool = True
    schedule: ScheduleName = "cosine"
    milestones: Sequence[float] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "milestones", tuple(self.milestones))
        _known("optimizer", self.optimizer, get_args(OptimizerName))
        _known("schedule", self.schedule, get_args(ScheduleName))
        _require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        _require(self.lr > 0, "lr", self.lr, "above 0")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "at least 0 and below 1")
        _require(
            not self.nesterov or self.momentum > 0, "nesterov", self.nesterov, "false when momentum is 0"
        )
        _require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "at least 0")
        _require(0 < self.gamma <= 1, "gamma", self.gamma, "above 0 and at most 1")
        _require(
            0 <= self.warmup_epochs < self.epochs,
            "warmup_epochs",
            self.warmup_epochs,
            f"at least 0 and below epochs={self.epochs}",
        )
        _require(
            0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "at least 0 and below 1"
        )
        self._check_milestones()

    def lasting(self, epochs: int) -> Training:
        """The same training with another number of epochs: milestones and warm-up are scaled in proportion."""
        ratio = epochs / self.epochs
        return replace(
            self,
            epochs=epochs,
            milestones=[milestone * ratio for milestone in self.milestones],
            warmup_epochs=self.warmup_epochs * ratio,
        )

    def _check_milestones(self) -> None:
        if self.schedule != "multistep":
            return
        rising = all(
            earlier < later for earlier, later in zip((0, *self.milestones), self.milestones, strict=False)
        )
        _require(
            bool(self.milestones) and rising and self.milestones[-1] < self.epochs,
            "milestones",
            list(self.milestones),
            f"rising epochs between 0 and epochs={self.epochs}, at least one, for the multistep schedule",
        )


def make_optimizer(model: nn.Module, training: Training, fused: bool = False) -> Optimizer:
    """The optimizer of the trainable parameters of ``model``, at the highest rate of the schedule.

    With ``decay_norm_and_bias=False`` vectors and scalars (scales and shifts of norms, biases) have no weight decay.

    Args:
        model: the network.
        training: the hyperparameters.
        fused: update all parameters in one kernel; they must be on the training device.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": training.weight_decay},
        {"params": vectors, "weight_decay": training.weight_decay if training.decay_norm_and_bias else 0.0},
    ]
    if training.optimizer == "adamw":
        return AdamW(groups, lr=training.lr, fused=fused or None)
    return SGD(
        groups, lr=training.lr, momentum=training.momentum, nesterov=training.nesterov, fused=fused or None
    )


def _known(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UserError(f"training: there is no {name} {value!r}. {nearest(str(value), known)}")


def _require(holds: bool, name: str, value: object, expected: str) -> None:
    if not holds:
        raise UserError(f"training: {name} must be {expected}, not {value!r}.")
