from __future__ import annotations

import pytest

from prunelab.report import Statistic, quantities
from prunelab.report.quantities import Unit


def test_accuracies_are_percent_with_two_decimals() -> None:
    assert quantities.accuracy(Statistic(0.91234, 0.0123, 3), deviation=True) == "91.23 ± 1.23"
    assert quantities.accuracy(Statistic(0.91234, None, 1), deviation=True) == "91.23 ± -"
    assert quantities.accuracy(Statistic(0.91234, 0.0123, 3), deviation=False) == "91.23"
    assert quantities.accuracy(None, deviation=True) == "-"


def test_changes_carry_their_sign() -> None:
    assert quantities.points(Statistic(0.0123, 0.001, 2), deviation=True) == "+1.23 ± 0.10"
    assert quantities.points(Statistic(-0.0123, None, 1), deviation=False) == "-1.23"
    assert quantities.points(Statistic(-0.000001, None, 1), deviation=False) == "+0.00"


@pytest.mark.parametrize(
    ("value", "text"),
    [(8_178_000_000, "8.18 G"), (125_490_000, "125.49 M"), (61_706, "61.71 k"), (999, "999 "), (0, "0 ")],
)
def test_counts_are_in_the_largest_unit_that_fits(value: int, text: str) -> None:
    unit = Unit.fitting(value)

    assert f"{quantities.count(Statistic(value, None, 1), unit, deviation=False)} {unit.letter}" == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.9534, "0.953"), (1.6, "1.60"), (20.11, "20.1"), (641.2, "641"), (12345.6, "12346"), (0, "0.00")],
)
def test_times_have_three_digits(value: float, text: str) -> None:
    assert quantities.duration(Statistic(value, None, 1), deviation=False) == text


def test_deviations_have_the_decimals_of_their_mean() -> None:
    assert quantities.duration(Statistic(20.11, 0.456, 3), deviation=True) == "20.1 ± 0.5"


def test_text_from_files_becomes_one_printable_line() -> None:
    assert quantities.one_line("a\n\x1b[31mred\udc80  b") == "a [31mred b"
    assert quantities.one_line("x" * 300) == "x" * 197 + "..."
