"""In how many rounds a network is pruned and trained again, and how long each training is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

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
    again; the network is trained from scratch).
    """

    keep: float
    training: Training | None
    part: tuple[int, int] = (1, 1)
    weights: WeightSource = "inherited"


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

    Raises:
        UserError: ``calibration_images`` is not at least 1; unknown ``weights``; fresh weights without training.
    """

    training: Training | None
    calibration_images: int = 512
    weights: WeightSource = "inherited"

    def __post_init__(self) -> None:
        _at_least_one("calibration_images", self.calibration_images)
        if self.weights not in get_args(WeightSource):
            raise UserError(
                f"recipe.weights={self.weights!r} does not exist. "
                f"{nearest(str(self.weights), get_args(WeightSource))}"
            )
        if self.weights == "fresh" and self.training is None:
            raise UserError("recipe.weights=fresh trains from scratch, but recipe.training is null.")

    def rounds(self, keep: float) -> tuple[Round, ...]:
        return (Round(keep, self.training, weights=self.weights),)


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

    Raises:
        UserError: a number below 1 or an unknown schedule.
    """

    training: Training
    round_training: Training
    number: int = 3
    schedule: ScheduleName = "geometric"
    calibration_images: int = 512

    def __post_init__(self) -> None:
        _at_least_one("number", self.number)
        _at_least_one("calibration_images", self.calibration_images)
        if self.schedule not in get_args(ScheduleName):
            raise UserError(
                f"recipe: no schedule is called {self.schedule!r}. "
                f"{nearest(str(self.schedule), get_args(ScheduleName))}"
            )

    def rounds(self, keep: float) -> tuple[Round, ...]:
        earlier = (
            Round(self._kept_after(number, keep), self.round_training) for number in range(1, self.number)
        )
        return (*earlier, Round(keep, self.training))

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

    All groups lose the same fraction (budget.allocation=uniform), for what later ones will lose is not known.

    Raises:
        UserError: a number below 1.
    """

    training: Training
    round_training: Training
    parts: int = 16
    calibration_images: int = 512

    def __post_init__(self) -> None:
        _at_least_one("parts", self.parts)
        _at_least_one("calibration_images", self.calibration_images)

    def rounds(self, keep: float) -> tuple[Round, ...]:
        return tuple(
            Round(keep, self.round_training if part < self.parts else self.training, (part, self.parts))
            for part in range(1, self.parts + 1)
        )


def _at_least_one(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"recipe: {name} must be a whole number, at least 1, not {value!r}.")
