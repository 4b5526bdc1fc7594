"""The test set that a run was evaluated on, and the accuracy that counts as chance level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prunelab.records.fields import Fields

DEVIATIONS = 3.0
"""Accuracies up to this number of standard deviations above chance count as chance level."""


@dataclass(frozen=True)
class TestSet:
    """The number of ``images`` in a test set, and the fraction of them in the most frequent class."""

    __test__ = False  # pytest collects classes whose names begin like this

    images: int
    largest_class: float

    def is_chance(self, top1: float) -> bool:
        """Whether ``top1`` is not clearly above that of the constant answer "the most frequent class".

        The limit is ``p + 3 sqrt(p (1 - p) / n)`` with p = ``largest_class`` and n = ``images``: guessing exceeds this
        accuracy in about one of a thousand cases.
        """
        chance = self.largest_class
        deviation = math.sqrt(chance * (1 - chance) / max(self.images, 1))
        return top1 <= chance + DEVIATIONS * deviation

    @classmethod
    def from_fields(cls, fields: Fields) -> TestSet:
        return cls(images=fields.integer("images"), largest_class=fields.fraction("largest_class"))
