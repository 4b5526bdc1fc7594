from __future__ import annotations

import pytest

from prunelab.records import TestSet


@pytest.mark.parametrize(
    ("images", "largest", "top1", "chance"),
    [
        (10_000, 0.1, 0.1, True),
        (10_000, 0.1, 0.108, True),  # 0.1 + 3 * sqrt(0.09 / 10,000) = 0.109
        (10_000, 0.1, 0.11, False),
        (360, 0.1, 0.14, True),  # 0.147
        (360, 0.1, 0.15, False),
        (10_000, 0.9, 0.9, True),  # one class dominates: 90 % needs no network
        (10_000, 0.5, 0.2, True),
    ],
)
def test_chance_is_the_most_frequent_class_and_three_deviations(
    images: int, largest: float, top1: float, chance: bool
) -> None:
    assert TestSet(images, largest).is_chance(top1) is chance
