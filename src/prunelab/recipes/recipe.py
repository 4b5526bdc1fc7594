"""In how many rounds a network is pruned and trained again, and how long each training is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from prunelab.calibration import Step, chosen_steps
from prunelab.errors import UserError, nearest
from prunelab.training import Training

ScheduleName = Literal["geometric", "linear"]
WeightSource = Literal["inherited", "fresh"]


@dataclass(frozen=True)
class Round:
    """One pruning and the training that follows.

    ``keep`` is the fraction of the full network's resource that is left after the last round that prunes the same
    ``part`` of the network: the whole, or (r, n), the r-th of n parts in forward order. ``training`` is None if there
    is none. ``weights``: of the pruned network when it trains: "inherited" from the full network, or "fresh" (drawn
    again; the network is trained from scratch). ``calibration``: steps between pruning and training.
    """

    keep: float
    training: Training | None
    part: tuple[int, int] = (1, 1)
    weights: WeightSource = "inherited"
    calibration: tuple[Step, ...] = ()


class Recipe(Protocol):
    """How a budget is reached. Your own recipe is a class with these two, and one YAML in conf/recipe."""

    @property
    def calibration_images(self) -> int:
        """How many training images a method may look at to score channels."""

    def rounds(self, keep: float) -> Sequence[Round]:
        """The rounds, in order; the last one keeps ``keep``."""


@dataclass(frozen=True)
class OneShot:
    """Prune to the budget at once, then train; ``training`` None: the network is measured as it was pruned.

    Attributes:
        training: the recovery.
        calibration_images: training images that the method reads.
        weights: "inherited" from the full network, or "fresh": train the pruned architecture from scratch.
        calibration: steps without labels that follow each pruning, on as many images: names of
            ``prunelab.calibration.STEPS``, or steps with settings of their own.

    Raises:
        UserError: ``calibration_images`` is not at least 1; unknown ``weights`` or steps; fresh weights without
            training, or with calibration.
    """

    training: Training | None
    calibration_images: int = 512
    weights: WeightSource = "inherited"
    calibration: Sequence[str | Step] = ()

    def __post_init__(self) -> None:
        _at_least_one("calibration_images", self.calibration_images)
        steps = chosen_steps(self.calibration)
        if self.weights not in get_args(WeightSource):
            raise UserError(
                f"recipe.weights={self.weights!r} does not exist. "
                f"{nearest(str(self.weights), get_args(WeightSource))}"
            )
        if self.weights == "fresh" and self.training is None:
            raise UserError("recipe.weights=fresh trains from scratch, but recipe.training is null.")
        if self.weights == "fresh" and steps:
            raise UserError("recipe.weights=fresh trains from scratch: use recipe.calibration=[].")

    def rounds(self, keep: float) -> tuple[Round, ...]:
        steps = chosen_steps(self.calibration)
        return (Round(keep, self.training, weights=self.weights, calibration=steps),)


@dataclass(frozen=True)
class Iterative:
    """Prune a little, train a little, ``number`` times; the training after the last pruning is the full one.

    Attributes:
        training: the recovery after the last round.
        round_training: the training after each earlier round.
        number: rounds in all, at least 1.
        schedule: the fraction kept after round r of R is keep^(r/R) (geometric: each round removes the same
            share of what is left) or 1 - (1 - keep) r/R (linear: the same share of the full network).
        calibration_images: training images that the method looks at in each round.
        calibration: steps without labels that follow each pruning, see ``OneShot``.

    Either training may be None: there is none then.

    Raises:
        UserError: a number below 1, an unknown schedule or step.
    """

    training: Training | None
    round_training: Training | None
    number: int = 3
    schedule: ScheduleName = "geometric"
    calibration_images: int = 512
    calibration: Sequence[str | Step] = ()

    def __post_init__(self) -> None:
        _at_least_one("number", self.number)
        _at_least_one("calibration_images", self.calibration_images)
        if self.schedule not in get_args(ScheduleName):
            raise UserError(
                f"recipe: no schedule is called {self.schedule!r}. "
                f"{nearest(str(self.schedule), get_args(ScheduleName))}"
            )
        chosen_steps(self.calibration)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        steps = chosen_steps(self.calibration)
        earlier = (
            Round(self._kept_after(number, keep), self.round_training, calibration=steps)
            for number in range(1, self.number)
        )
        return (*earlier, Round(keep, self.training, calibration=steps))

    def _kept_after(self, number: int, keep: float) -> float:
        progress = number / self.number
        return keep**progress if self.schedule == "geometric" else 1 - (1 - keep) * progress


@dataclass(frozen=True)
class FrontToBack:
    """Prune the first layers to their final width, train a little, prune the next ones, and so on to the last.

    Attributes:
        training: the recovery after the last part.
        round_training: the training after each earlier part.
        parts: how many; the groups that may be pruned are shared out evenly, in forward order. For the two inner
            layers of each of the 16 bottlenecks of a ResNet-50: 16.
        calibration_images: training images that the method looks at for each part.
        calibration: steps without labels that follow each pruning, see ``OneShot``.

    All groups lose the same fraction (budget.allocation=uniform), for what later ones will lose is not known.

    Raises:
        UserError: a number below 1, or an unknown step.
    """

    training: Training
    round_training: Training
    parts: int = 16
    calibration_images: int = 512
    calibration: Sequence[str | Step] = ()

    def __post_init__(self) -> None:
        _at_least_one("parts", self.parts)
        _at_least_one("calibration_images", self.calibration_images)
        chosen_steps(self.calibration)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        steps = chosen_steps(self.calibration)
        trainings = [self.round_training] * (self.parts - 1) + [self.training]
        return tuple(
            Round(keep, training, (part, self.parts), calibration=steps)
            for part, training in enumerate(trainings, start=1)
        )


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"recipe: {name} must be a whole number, at least 1, not {value!r}.")
