"""The calibration steps by name, in the order of their cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prunelab.calibration.bias import Bias
from prunelab.calibration.blockwise import Blockwise
from prunelab.calibration.bn import BatchNorm
from prunelab.calibration.distil import Distil
from prunelab.calibration.least_squares import LeastSquares
from prunelab.calibration.pair import Pair
from prunelab.errors import UserError, nearest

Step = Callable[[Pair], Any]
"""Adjusts the pruned network of a pair, in place."""

STEPS: Mapping[str, Step] = {
    "bn": BatchNorm(),
    "bias": Bias(),
    "least_squares": LeastSquares(sequential=False),
    "sequential": LeastSquares(),
    "blockwise": Blockwise(),
    "distil": Distil(),
}
"""The steps with their default settings."""


def chosen_steps(chosen: Sequence[str | Step]) -> tuple[Step, ...]:
    """The steps that ``recipe.calibration`` lists: names of ``STEPS``, or steps with settings of their own.

    Raises:
        UserError: an unknown name, or a value that is not a step.
    """
    if isinstance(chosen, str):
        raise UserError(f"recipe.calibration={chosen!r} is one word: write a list, such as [{chosen}].")
    return tuple(_step(each) for each in chosen)


def title(step: Step) -> str:
    """The name of a step in records: that in ``STEPS``, or its settings if they differ."""
    for name, known in STEPS.items():
        if step == known:
            return name
    return repr(step)


def _step(chosen: str | Step) -> Step:
    if isinstance(chosen, str):
        if chosen not in STEPS:
            raise UserError(f"recipe.calibration: no step {chosen!r}. {nearest(chosen, STEPS)}")
        return STEPS[chosen]
    if not callable(chosen):
        raise UserError(
            f"recipe.calibration: {chosen!r} is not a calibration step. Use names ({', '.join(STEPS)}) or mappings "
            "with a _target_, such as {_target_: prunelab.calibration.Distil, steps: 500}."
        )
    return chosen
