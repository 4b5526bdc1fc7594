"""Budgets that are reached in rounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prunelab.calibration import chosen_steps
from prunelab.errors import UserError
from prunelab.recipes import FrontToBack, Iterative, OneShot, Round
from prunelab.training import Training

FULL, SHORT = Training(epochs=20), Training(epochs=3)


def test_one_shot_is_one_round_with_the_full_training() -> None:
    assert OneShot(FULL).rounds(0.5) == (Round(0.5, FULL),)


def test_geometric_rounds_remove_the_same_share_of_the_rest() -> None:
    rounds = Iterative(FULL, SHORT, number=3, schedule="geometric").rounds(0.125)
    assert [step.keep for step in rounds] == pytest.approx([0.5, 0.25, 0.125])
    assert [step.training for step in rounds] == [SHORT, SHORT, FULL]


def test_linear_rounds_remove_the_same_share_of_the_full_network() -> None:
    rounds = Iterative(FULL, SHORT, number=4, schedule="linear").rounds(0.2)
    assert [step.keep for step in rounds] == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert rounds[-1].keep == 0.2


def test_front_to_back_is_one_round_for_each_part() -> None:
    rounds = FrontToBack(FULL, SHORT, parts=3).rounds(0.4)
    assert rounds == (Round(0.4, SHORT, (1, 3)), Round(0.4, SHORT, (2, 3)), Round(0.4, FULL, (3, 3)))


def test_there_may_be_no_training_at_all() -> None:
    assert OneShot(None).rounds(0.5) == (Round(0.5, None),)


def test_only_the_last_round_has_fresh_weights() -> None:
    steps = chosen_steps(["bias"])
    assert OneShot(FULL, weights="fresh").rounds(0.5) == (Round(0.5, FULL, weights="fresh"),)
    iterative = Iterative(FULL, SHORT, number=2, schedule="linear", weights="fresh", calibration=["bias"])
    assert iterative.rounds(0.5) == (
        Round(0.75, SHORT, calibration=steps),
        Round(0.5, FULL, weights="fresh"),
    )
    parts = FrontToBack(FULL, SHORT, parts=2, weights="fresh", calibration=["bias"])
    assert parts.rounds(0.5) == (
        Round(0.5, SHORT, (1, 2), calibration=steps),
        Round(0.5, FULL, (2, 2), weights="fresh"),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OneShot(FULL, weights="frsh"), r"recipe\.weights='frsh'.*Did you mean 'fresh'"),  # type: ignore[arg-type]
        (lambda: Iterative(FULL, SHORT, weights="new"), r"recipe\.weights='new'"),  # type: ignore[arg-type]
        (lambda: FrontToBack(FULL, SHORT, weights="new"), r"recipe\.weights='new'"),  # type: ignore[arg-type]
        (lambda: OneShot(None, weights="fresh"), r"recipe\.weights=fresh .*recipe\.training"),
        (lambda: Iterative(None, SHORT, weights="fresh"), r"recipe\.weights=fresh .*recipe\.training"),
        (lambda: OneShot(FULL, weights="fresh", calibration=["bias"]), r"recipe\.calibration=\[\]"),
        (
            lambda: Iterative(FULL, SHORT, 1, weights="fresh", calibration=["bias"]),
            r"recipe\.calibration=\[\]",
        ),
    ],
)
def test_invalid_weights_are_reported(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"number": 0}, "number must be a whole number, at least 1, not 0"),
        ({"calibration_images": 2.5}, "calibration_images must be a whole number"),
        ({"schedule": "geometrc"}, "Did you mean 'geometric'"),
    ],
)
def test_invalid_settings_are_reported(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Iterative(FULL, SHORT, **settings)  # type: ignore[arg-type]


def test_parts_are_counted_from_one() -> None:
    with pytest.raises(UserError, match="parts must be a whole number, at least 1, not 0"):
        FrontToBack(FULL, SHORT, parts=0)
