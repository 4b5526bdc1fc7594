"""Rounds of a latency budget: build a network, compare it with the reference, correct the prediction, build again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from prunelab.distributed.messages import info
from prunelab.errors import UserError
from prunelab.evaluation.latency_target import Comparison, LatencyModel
from prunelab.records.latency import LatencyRound, LatencySummary

ROUNDS = 3
"""The most networks that are built and measured for one budget."""

TOLERANCE = 0.03
"""A budget is met if the measured latency is at most this fraction above it."""

Choice = TypeVar("Choice")


@dataclass(frozen=True)
class Attempt(Generic[Choice]):
    """A network that was built for the predicted latency ``aim``: what was chosen, predicted and measured."""

    choice: Choice
    aim: float
    predicted: float
    found: Comparison


@dataclass(frozen=True)
class Words:
    """The parts of the messages: the budget, the network, the reference ("the full network's"), and what to do."""

    budget: str
    network: str
    reference: str
    smallest: str
    advice: str


def meet(
    latency: LatencyModel,
    asked: float,
    smallest: float,
    attempt: Callable[[float], Attempt[Choice]],
    words: Words,
) -> tuple[Choice, LatencySummary]:
    """The choice with the highest measured latency within the budget.

    The first attempt is made for ``asked``. The aim of each further one is corrected by the measured latencies of the
    earlier ones. There are at most ``ROUNDS``.

    Args:
        latency: the reference on the target.
        asked: fraction of its latency.
        smallest: the smallest fraction that is predicted for any choice.
        attempt: builds and measures a network whose predicted latency is at most a given fraction.

    Raises:
        UserError: the budget was not met within ``TOLERANCE``.
    """
    attempts: list[Attempt[Choice]] = []
    aim = asked
    for number in range(1, ROUNDS + 1):
        attempts.append(attempt(aim))
        info(_progress(number, asked, attempts[-1].predicted, attempts[-1].found))
        if abs(attempts[-1].found.ratio / asked - 1) <= TOLERANCE:
            break
        aim = max(_next_aim(attempts, asked), smallest)
        if _is_known(aim, attempts):
            break
    best = _best(latency, asked, smallest, attempts, words)
    return best.choice, _summary(latency, asked, best, attempts)


def corrected(points: Sequence[tuple[float, float]], asked: float) -> float:
    """The predicted latency at which ``asked`` should be measured: on the line through the nearest known points.

    Args:
        points: predicted and measured latency of networks, as fractions of the full one, whose point is (1, 1).
        asked: a fraction, in (0, 1].

    Example:
        >>> round(corrected([(0.5, 0.6)], asked=0.4), 3)  # the line through (1, 1) and (0.5, 0.6)
        0.25
        >>> round(corrected([(0.5, 0.6), (0.3, 0.3)], asked=0.4), 3)
        0.367
    """
    known = sorted({*points, (1.0, 1.0)}, key=lambda each: each[1])
    above = next((number for number, each in enumerate(known) if each[1] >= asked), len(known) - 1)
    low, high = known[max(above - 1, 0)], known[max(above, 1)]
    if above == 0:  # below all measurements: the line from the full network
        low, high = known[0], known[-1]
    if high[1] - low[1] < 1e-6:
        return max(1e-3, low[0] * asked / low[1])
    slope = (high[0] - low[0]) / (high[1] - low[1])
    return min(1.0, max(1e-3, low[0] + slope * (asked - low[1])))


def _next_aim(attempts: Sequence[Attempt[Choice]], asked: float) -> float:
    """The corrected budget. If it was tried before and all networks were too slow, because measurements vary, it is a
    smaller one."""
    aim = corrected([(each.predicted, each.found.ratio) for each in attempts], asked)
    if _is_known(aim, attempts) and all(each.found.ratio > asked * (1 + TOLERANCE) for each in attempts):
        return min(each.aim * asked / each.found.ratio for each in attempts)
    return aim


def _is_known(aim: float, attempts: Sequence[Attempt[Choice]]) -> bool:
    return any(abs(aim / each.aim - 1) < 1e-3 for each in attempts)


def _best(
    latency: LatencyModel, asked: float, smallest: float, attempts: Sequence[Attempt[Choice]], words: Words
) -> Attempt[Choice]:
    met = [each for each in attempts if each.found.ratio <= asked * (1 + TOLERANCE)]
    if met:
        return max(met, key=lambda each: each.found.ratio)
    best = min(attempts, key=lambda each: each.found.ratio).found
    raise UserError(
        f"{words.budget} was not met: the smallest latency that was measured for {words.network} is "
        f"{best.ratio:.3f} of {words.reference} ({best.pruned.p50_ms:.3g} ms of {best.full.p50_ms:.3g} ms; "
        f"{latency.target}), in {len(attempts)} rounds. The table predicts {smallest:.3f} for {words.smallest}. "
        f"{words.advice}"
    )


def _summary(
    latency: LatencyModel, asked: float, best: Attempt[Choice], attempts: Sequence[Attempt[Choice]]
) -> LatencySummary:
    return LatencySummary(
        asked=asked,
        predicted=best.predicted,
        measured=best.found.ratio,
        turns=best.found.turns,
        full=best.found.full,
        pruned=best.found.pruned,
        rounds=tuple(LatencyRound(each.aim, each.predicted, each.found.ratio) for each in attempts),
        target=latency.target.settings(),
        machine=latency.target.machine(),
    )


def _progress(number: int, asked: float, predicted: float, found: Comparison) -> str:
    return (
        f"Latency, round {number}: asked {asked:.1%}, predicted {predicted:.1%}, measured {found.ratio:.1%} "
        f"({found.full.p50_ms:.3g} ms -> {found.pruned.p50_ms:.3g} ms)."
    )
