"""Recipes: the number of rounds of pruning and training, and the training of each round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, get_args

from prunelab.calibration import Step, chosen_steps
from prunelab.errors import UserError, nearest
from prunelab.training import Distillation, Training

ScheduleName = Literal["geometric", "linear"]
WeightSource = Literal["inherited", "fresh"]


@dataclass(frozen=True)
class Round:
    """One pruning and the training that follows.

    Attributes:
        keep: remaining fraction of the full network's resource after the last round that prunes this ``part``.
        training: None if no training follows.
        part: (r, n): the round prunes the r-th of n parts of the network in forward order; (1, 1) is the whole network.
        weights: at the start of the training: "inherited" from the network before pruning, or "fresh" (initialised
            again; the pruned network is trained from scratch).
        calibration: training-free steps between pruning and training.
        distillation: use of the full network as a teacher in this training and in those of candidates; None: no
            teacher.
    """

    keep: float
    training: Training | None
    part: tuple[int, int] = (1, 1)
    weights: WeightSource = "inherited"
    calibration: tuple[Step, ...] = ()
    distillation: Distillation | None = None


class Recipe(Protocol):
    """The rounds that reach a budget. A recipe of a user is a class with these two members and a YAML file in
    conf/recipe."""

    @property
    def calibration_images(self) -> int:
        """The number of training images for the scores of a method."""

    def rounds(self, keep: float) -> Sequence[Round]:
        """The rounds in order; the last one keeps the fraction ``keep``."""


@dataclass(frozen=True)
class OneShot:
    """Prune to the budget in one step, then train.

    Attributes:
        training: the recovery; None: the pruned network is measured without recovery.
        calibration_images: number of training images with which the method scores channels.
        weights: "inherited" from the full network, or "fresh": train the pruned architecture from scratch.
        calibration: steps without labels after each pruning, on the same number of images: names of
            ``prunelab.calibration.STEPS``, or steps with settings of their own.
        distillation: weight of the loss against the outputs of the full network in the recovery and in trainings of
            candidates; the loss of the labels has the weight 1 - distillation; 0: none. See ``Distillation``.
        temperature: temperature of this loss.

    Raises:
        UserError: ``calibration_images`` is not at least 1; unknown ``weights`` or steps; fresh weights without
            training, or with calibration; a distillation out of range, or without training.
    """

    training: Training | None
    calibration_images: int = 512
    weights: WeightSource = "inherited"
    calibration: Sequence[str | Step] = ()
    distillation: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _at_least_one("calibration_images", self.calibration_images)
        _check_weights(self.weights, self.training, chosen_steps(self.calibration))
        _distillation(self.distillation, self.temperature, self.training)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        last = _last_round(keep, self.training, self.weights, chosen_steps(self.calibration))
        return _taught([last], self.distillation, self.temperature)


@dataclass(frozen=True)
class Iterative:
    """Reach the budget in ``number`` rounds of pruning and training.

    Attributes:
        training: the recovery after the last round.
        round_training: the training after each earlier round.
        number: number of rounds, at least 1.
        schedule: the fraction kept after round r of R is keep^(r/R) (geometric: each round removes the same fraction of
            what remains) or 1 - (1 - keep) r/R (linear: each round removes the same fraction of the full network).
        calibration_images: number of training images with which the method scores channels in each round.
        calibration: steps without labels that follow each pruning, see ``OneShot``.
        weights: in the last round, see ``OneShot``. With "fresh" the earlier rounds, which inherit weights, only
            determine the architecture, and no calibration follows the last pruning.
        distillation, temperature: in all trainings, see ``OneShot``. The teacher is the full network before the first
            round.

    Either training may be None: there is no training then.

    Raises:
        UserError: a number below 1, an unknown schedule, step or ``weights``; fresh weights without training.
    """

    training: Training | None
    round_training: Training | None
    number: int = 3
    schedule: ScheduleName = "geometric"
    calibration_images: int = 512
    calibration: Sequence[str | Step] = ()
    weights: WeightSource = "inherited"
    distillation: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _at_least_one("number", self.number)
        _at_least_one("calibration_images", self.calibration_images)
        if self.schedule not in get_args(ScheduleName):
            raise UserError(
                f"recipe: there is no schedule {self.schedule!r}. "
                f"{nearest(str(self.schedule), get_args(ScheduleName))}"
            )
        _check_weights(self.weights, self.training, chosen_steps(self.calibration), self.number)
        _distillation(self.distillation, self.temperature, self.training or self.round_training)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        steps = chosen_steps(self.calibration)
        earlier = (
            Round(self._kept_after(number, keep), self.round_training, calibration=steps)
            for number in range(1, self.number)
        )
        last = _last_round(keep, self.training, self.weights, steps)
        return _taught([*earlier, last], self.distillation, self.temperature)

    def _kept_after(self, number: int, keep: float) -> float:
        progress = number / self.number
        return keep**progress if self.schedule == "geometric" else 1 - (1 - keep) * progress


@dataclass(frozen=True)
class FrontToBack:
    """Prune the network part by part in forward order, each part to its final width, with a training after each part.

    All groups lose the same fraction (budget.allocation=uniform), because the widths of later parts must be known.

    Attributes:
        training: the recovery after the last part.
        round_training: the training after each earlier part.
        parts: number of parts, into which the prunable groups are divided evenly. For the two inner layers of each of
            the 16 bottlenecks of a ResNet-50: 16.
        calibration_images: number of training images with which the method scores the channels of each part.
        calibration: steps without labels that follow each pruning, see ``OneShot``.
        weights: after the last part, see ``Iterative``.
        distillation, temperature: in all trainings, see ``OneShot``.

    Raises:
        UserError: a number below 1, an unknown step or ``weights``.
    """

    training: Training
    round_training: Training
    parts: int = 16
    calibration_images: int = 512
    calibration: Sequence[str | Step] = ()
    weights: WeightSource = "inherited"
    distillation: float = 0.0
    temperature: float = 4.0

    def __post_init__(self) -> None:
        _at_least_one("parts", self.parts)
        _at_least_one("calibration_images", self.calibration_images)
        _check_weights(self.weights, self.training, chosen_steps(self.calibration), self.parts)
        _distillation(self.distillation, self.temperature, self.training)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        steps = chosen_steps(self.calibration)
        earlier = (
            Round(keep, self.round_training, (part, self.parts), calibration=steps)
            for part in range(1, self.parts)
        )
        last = _last_round(keep, self.training, self.weights, steps, (self.parts, self.parts))
        return _taught([*earlier, last], self.distillation, self.temperature)


def _last_round(
    keep: float,
    training: Training | None,
    weights: WeightSource,
    steps: tuple[Step, ...],
    part: tuple[int, int] = (1, 1),
) -> Round:
    """The round that ends with the recovery. Calibration would have no effect on fresh weights."""
    return Round(keep, training, part, weights, () if weights == "fresh" else steps)


def _taught(rounds: Sequence[Round], weight: float, temperature: float) -> tuple[Round, ...]:
    """``rounds`` with the full network as a teacher with this weight."""
    return tuple(
        replace(each, distillation=_distillation(weight, temperature, each.training))
        if each.training
        else each
        for each in rounds
    )


def _distillation(weight: float, temperature: float, training: Training | None) -> Distillation | None:
    """None for a weight of 0."""
    if weight and training is None:
        raise UserError(
            f"recipe.distillation={weight} is a part of the loss of the recovery, but recipe.training is null."
        )
    taught = Distillation(weight or 1.0, temperature)  # also raises for a temperature out of range
    return taught if weight else None


def _check_weights(
    weights: WeightSource, training: Training | None, steps: tuple[Step, ...], rounds: int = 1
) -> None:
    if weights not in get_args(WeightSource):
        raise UserError(
            f"recipe.weights={weights!r} does not exist. {nearest(str(weights), get_args(WeightSource))}"
        )
    if weights == "fresh" and training is None:
        raise UserError("recipe.weights=fresh trains from scratch, but recipe.training is null.")
    if weights == "fresh" and steps and rounds == 1:
        raise UserError("recipe.weights=fresh trains from scratch: use recipe.calibration=[].")


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"recipe: {name} must be a whole number, at least 1, not {value!r}.")
