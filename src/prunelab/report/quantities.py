"""Formatting of numbers: accuracies in percent, counts in k, M or G, times with three digits."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunelab.report.measures import Statistic

UNKNOWN = "-"
DIGITS = 3


@dataclass(frozen=True)
class Unit:
    """A power of a thousand and its letter. A column has one unit, so that its numbers can be compared directly."""

    size: float
    letter: str

    @classmethod
    def fitting(cls, value: float) -> Unit:
        """The largest unit in which ``value`` is at least 1."""
        return next((unit for unit in UNITS if value >= unit.size), UNITS[-1])


UNITS = (Unit(1e12, "T"), Unit(1e9, "G"), Unit(1e6, "M"), Unit(1e3, "k"), Unit(1, ""))


def accuracy(statistic: Statistic | None, deviation: bool) -> str:
    """A fraction in percent: ``91.23 ± 0.12``."""
    return _written(statistic, 100, ".2f", deviation)


def points(statistic: Statistic | None, deviation: bool) -> str:
    """A difference of fractions in percentage points, always with its sign: ``+0.12 ± 0.05``."""
    return _written(statistic, 100, "+z.2f", deviation)


def percentage(statistic: Statistic | None) -> str:
    """A fraction with the percent sign: ``50.1 %``."""
    return UNKNOWN if statistic is None else f"{100 * statistic.mean:.1f} %"


def count(statistic: Statistic | None, unit: Unit, deviation: bool) -> str:
    """A count in ``unit``: ``41.25 ± 0.01``; without decimals if the unit is 1."""
    return _written(statistic, 1 / unit.size, ".2f" if unit.letter else ".0f", deviation)


def duration(statistic: Statistic | None, deviation: bool) -> str:
    """A time with three digits, without its unit: ``0.953 ± 0.012``."""
    if statistic is None:
        return UNKNOWN
    before_point = math.floor(math.log10(statistic.mean)) + 1 if statistic.mean > 0 else 1
    return _written(statistic, 1, f".{max(0, min(DIGITS, DIGITS - before_point))}f", deviation)


def factor(statistic: Statistic | None) -> str:
    """A speed-up: ``1.61x``."""
    return UNKNOWN if statistic is None else f"{statistic.mean:.2f}x"


def together(value: str, remark: str) -> str:
    """``41.25 (50.1 %)``; without an unknown remark."""
    return value if remark == UNKNOWN else f"{value} ({remark})"


def one_line(text: str, most: int = 200) -> str:
    """Text from a file as one printable line of at most ``most`` characters."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    line = " ".join(printable.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def _written(statistic: Statistic | None, scale: float, form: str, deviation: bool) -> str:
    if statistic is None:
        return UNKNOWN
    mean = f"{scale * statistic.mean:{form}}"
    if not deviation:
        return mean
    if statistic.deviation is None:
        return f"{mean} ± {UNKNOWN}"
    return f"{mean} ± {scale * statistic.deviation:{form.removeprefix('+z')}}"
