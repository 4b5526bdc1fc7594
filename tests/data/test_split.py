from __future__ import annotations

import numpy as np
import pytest
import torch

from prunelab.data.augment import BatchTransform
from prunelab.data.sources import MemoryImages
from prunelab.data.split import Split, hold_out
from prunelab.errors import UserError


def split_of(targets: list[int]) -> Split:
    images = torch.zeros(len(targets), 1, 1, 1, dtype=torch.uint8)
    return Split.whole(MemoryImages(images, np.array(targets), BatchTransform((0.0,), (1.0,))))


def test_the_held_out_part_is_disjoint_and_stratified():
    kept, held = hold_out(split_of([0] * 100 + [1] * 50 + [2] * 20), fraction=0.1, seed=0)
    assert set(kept.indices) & set(held.indices) == set()
    assert sorted([*kept.indices, *held.indices]) == list(range(170))
    assert np.bincount(held.targets).tolist() == [10, 5, 2]
    assert np.bincount(kept.targets).tolist() == [90, 45, 18]


def test_the_seed_determines_the_held_out_images():
    whole = split_of([0, 1] * 50)
    first, same, other = (hold_out(whole, 0.2, seed)[1].indices for seed in (0, 0, 1))
    assert np.array_equal(first, same)
    assert not np.array_equal(first, other)


def test_a_part_of_a_part_keeps_the_positions_in_the_source():
    whole = split_of([0, 1] * 50)
    kept, _ = hold_out(whole, 0.2, seed=0)
    train, val = hold_out(kept, 0.25, seed=0)
    assert sorted([*train.indices, *val.indices]) == kept.indices.tolist()
    assert len(val) == 20


@pytest.mark.parametrize(
    ("targets", "fraction"), [([0] * 9 + [1], 0.5), ([0] * 10 + [1] * 10, 0.01), ([0] * 10 + [1] * 10, 0.99)]
)
def test_too_few_images_to_hold_out_is_explained(targets: list[int], fraction: float):
    with pytest.raises(
        UserError, match=r"both parts need images of each of the 2 classes .*data.val_fraction"
    ):
        hold_out(split_of(targets), fraction, seed=0)
