from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prunelab.data.augment import BatchTransform, random_crop, random_flip
from prunelab.data.order import Shard
from prunelab.errors import UserError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> Tensor:
    return torch.randint(1, 256, (50, 3, 6, 5), dtype=torch.uint8, generator=generator(9))


def crop_one_by_one(images: Tensor, padding: int, tops: Tensor, lefts: Tensor) -> Tensor:
    """The same crops, one by one: paste each image into a black canvas and cut."""
    height, width = images.shape[2:]
    cropped = []
    for image, top, left in zip(images, tops.tolist(), lefts.tolist(), strict=True):
        canvas = torch.zeros(3, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
        canvas[:, padding : padding + height, padding : padding + width] = image
        cropped.append(canvas[:, top : top + height, left : left + width])
    return torch.stack(cropped)


def test_random_crop_equals_cropping_one_by_one(images: Tensor):
    random = generator(3)
    tops = torch.randint(0, 5, (50,), generator=random)
    lefts = torch.randint(0, 5, (50,), generator=random)
    assert torch.equal(random_crop(images, 2, generator(3)), crop_one_by_one(images, 2, tops, lefts))


def test_random_crop_reaches_every_window_about_equally_often():
    marked = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    marked[:, :, 1, 1] = 1
    counts = random_crop(marked, 1, generator()).sum((0, 1))
    assert counts.sum() == 9000
    assert (counts - 1000).abs().max() < 150  # five standard deviations


def test_random_flip_mirrors_about_half_of_the_images(images: Tensor):
    flipped = random_flip(images, generator())
    mirrored = [torch.equal(after, before.flip(-1)) for before, after in zip(images, flipped, strict=True)]
    untouched = [torch.equal(after, before) for before, after in zip(images, flipped, strict=True)]
    assert all(one != other for one, other in zip(mirrored, untouched, strict=True))
    assert 10 < sum(mirrored) < 40


def test_normalisation_is_per_channel():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)
    transform = BatchTransform(mean=(0.5, 0.2, 0.0), std=(0.5, 0.1, 2.0))
    assert transform(images, None).flatten().tolist() == pytest.approx([-1.0, 0.0, 0.5])


def test_the_whole_training_transform(images: Tensor):
    transform = BatchTransform(mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 3.0), crop_padding=2, flip=True)
    random = generator(3)
    tops, lefts = (torch.randint(0, 5, (50,), generator=random) for _ in range(2))
    expected = crop_one_by_one(images, 2, tops, lefts)
    mirrored = torch.rand(50, generator=random) < 0.5
    expected[mirrored] = expected[mirrored].flip(-1)
    expected = (expected / 255 - torch.tensor([0.1, 0.2, 0.3])[:, None, None]) / torch.tensor(
        [1.0, 2.0, 3.0]
    )[:, None, None]
    augmented = transform(images, generator(3))
    assert augmented.dtype == torch.float32
    torch.testing.assert_close(augmented, expected)


def test_the_test_time_transform_neither_crops_nor_flips(images: Tensor):
    augmenting = BatchTransform((0.5,) * 3, (0.5,) * 3, crop_padding=2, flip=True)
    plain = BatchTransform((0.5,) * 3, (0.5,) * 3)
    assert torch.equal(augmenting(images, None), plain(images, generator()))


def test_mean_and_std_must_fit_each_other():
    with pytest.raises(UserError, match=r"data.mean has 3 value\(s\) and data.std 1: give one per channel"):
        BatchTransform((0.5,) * 3, (0.5,))
    with pytest.raises(UserError, match=r"data.std must be positive in every channel, not \[0.5, 0.0\]"):
        BatchTransform((0.5, 0.5), (0.5, 0.0))


def test_processes_augment_their_parts_as_one_would_the_whole() -> None:
    images = torch.randint(0, 256, (12, 1, 6, 5), dtype=torch.uint8, generator=generator())
    transform = BatchTransform((0.5,), (0.5,), crop_padding=2, flip=True)
    whole = transform(images, generator(8))
    parts = [transform(images[rank::3], generator(8), Shard(rank, 3)) for rank in range(3)]
    assert all(torch.equal(part, whole[rank::3]) for rank, part in enumerate(parts))
