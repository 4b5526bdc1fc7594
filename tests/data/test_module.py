"""Properties of every data module, tested with the digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prunelab.data import Digits
from prunelab.errors import UserError


@pytest.fixture(scope="module")
def digits() -> Digits:
    data = Digits()
    data.setup()
    return data


def test_the_three_parts_are_disjoint_and_complete(digits: Digits):
    parts = [set(part.indices) for part in (digits.train, digits.val, digits.test)]
    assert [len(part) for part in parts] == [1293, 144, 360]
    assert set.union(*parts) == set(range(1797))


def test_every_part_has_the_class_proportions_of_the_whole(digits: Digits):
    everything = np.bincount(digits.train.source.targets) / 1797
    for part in (digits.train, digits.val, digits.test):
        assert np.abs(np.bincount(part.targets) - everything * len(part)).max() <= 1


def test_setup_reads_once(digits: Digits):
    before = digits.train
    digits.setup("fit")
    digits.setup("test")
    assert digits.train is before


def test_use_before_setup_is_an_error_that_names_setup():
    with pytest.raises(RuntimeError, match=r"Digits has no images yet: call prepare_data\(\) and setup\(\)"):
        Digits().train_dataloader()


def test_the_split_does_not_depend_on_the_seed_of_the_run(digits: Digits):
    other_seed, other_split = Digits(seed=1), Digits(split_seed=1)
    other_seed.setup()
    other_split.setup()
    assert np.array_equal(other_seed.val.indices, digits.val.indices)
    assert not np.array_equal(other_split.val.indices, digits.val.indices)
    assert np.array_equal(other_split.test.indices, digits.test.indices)


def test_batches_are_normalised_floats_and_int64_classes(digits: Digits):
    for loader in (digits.train_dataloader(), digits.val_dataloader(), digits.test_dataloader()):
        images, targets = next(iter(loader))
        assert images.dtype == torch.float32 and targets.dtype == torch.int64
        assert images.shape[1:] == digits.image_shape and images.shape[:1] == targets.shape
        assert abs(images.mean()) < 0.15 and abs(images.std() - 1) < 0.15


def test_only_training_batches_are_augmented(digits: Digits):
    plain, _ = digits.val.source.batch(digits.val.indices, None)
    images = torch.cat([images for images, _ in digits.val_dataloader()])
    assert torch.equal(images, plain)
    assert digits.train_dataloader().augment_seed == 0
    assert digits.test_dataloader().augment_seed is None


def test_calibration_images_are_training_images_without_augmentation(digits: Digits):
    plain, _ = digits.train.source.batch(digits.train.indices, None)
    known = {image.numpy().tobytes() for image in plain}
    images = torch.cat([images for images, _ in digits.calibration_dataloader(100)])
    assert len(images) == 100
    assert all(image.numpy().tobytes() in known for image in images)
    chosen = np.concatenate(digits.calibration_dataloader(100).order.batches(0))
    assert set(chosen) <= set(digits.train.indices) and len(set(chosen)) == 100


def test_calibration_is_the_same_every_time_and_balanced(digits: Digits):
    again = Digits()
    again.setup()
    loader = digits.calibration_dataloader(300)
    for (images, targets), (same, same_targets) in zip(
        loader, again.calibration_dataloader(300), strict=True
    ):
        assert torch.equal(images, same) and torch.equal(targets, same_targets)
        assert torch.bincount(targets).tolist() == [15] * 10
    first, second = ([targets.tolist() for _, targets in loader] for _ in range(2))
    assert first == second


def test_the_seed_chooses_the_calibration_images(digits: Digits):
    other = Digits(seed=1)
    other.setup()
    chosen = [np.concatenate(data.calibration_dataloader(100).order.batches(0)) for data in (digits, other)]
    assert not np.array_equal(*chosen)


@pytest.mark.parametrize(("images", "given"), [(1293, 1293), (100_000, 1293), (7, 7)])
def test_the_number_of_calibration_images_is_an_upper_limit(digits: Digits, images: int, given: int):
    assert sum(len(targets) for _, targets in digits.calibration_dataloader(images)) == given


def test_less_than_one_calibration_image_is_an_error(digits: Digits):
    with pytest.raises(
        UserError, match=r"recipe\.calibration_images must be a whole number of at least 1, not 0"
    ):
        digits.calibration_dataloader(0)


def ready(**options) -> Digits:
    data = Digits(**options)
    data.setup()
    return data


def test_a_fraction_of_the_training_images_keeps_the_classes_and_the_other_parts(digits: Digits):
    half, tenth = ready(train_fraction=0.5), ready(train_fraction=0.1)
    assert (len(half.train), len(tenth.train)) == (646, 129)
    assert set(tenth.train.indices) < set(half.train.indices) < set(digits.train.indices)
    shares = np.bincount(digits.train.targets) / len(digits.train)
    for data in (half, tenth):
        assert np.abs(np.bincount(data.train.targets) - shares * len(data.train)).max() <= 1
        assert np.array_equal(data.val.indices, digits.val.indices)
        assert np.array_equal(data.test.indices, digits.test.indices)
        seen = np.concatenate(data.train_dataloader().order.batches(0))
        assert set(seen) <= set(data.train.indices)
    assert sum(len(targets) for _, targets in tenth.calibration_dataloader(512)) == 129


def test_the_fraction_does_not_depend_on_the_seed_of_the_run():
    first, other_seed, other_split = (
        ready(train_fraction=0.2, **seeds).train.indices for seeds in ({}, {"seed": 1}, {"split_seed": 1})
    )
    assert np.array_equal(first, other_seed)
    assert not np.array_equal(first, other_split)


def test_all_training_images_by_default(digits: Digits):
    assert np.array_equal(ready(train_fraction=1).train.indices, digits.train.indices)


def test_a_fraction_without_images_of_a_class_is_an_error():
    with pytest.raises(
        UserError, match=r"data\.train_fraction=0\.005 selects 6 of 1293 .*4 of 10 classes without"
    ):
        ready(train_fraction=0.005)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("batch_size", 0, "data.batch_size must be a whole number of at least 1, not 0"),
        ("batch_size", 2.5, "data.batch_size must be a whole number of at least 1, not 2.5"),
        ("eval_batch_size", -1, "data.eval_batch_size must be a whole number of at least 1, not -1"),
        ("val_fraction", 0, r"data.val_fraction must lie between 0 and 1 \(both excluded\), not 0"),
        ("val_fraction", 1.0, "data.val_fraction must lie between 0 and 1"),
        ("val_fraction", "a", "data.val_fraction must lie between 0 and 1"),
        ("train_fraction", 0, r"data.train_fraction must be above 0 and at most 1, not 0"),
        ("train_fraction", 1.5, r"data.train_fraction must be above 0 and at most 1, not 1.5"),
        ("train_fraction", True, r"data.train_fraction must be above 0 and at most 1, not True"),
        ("seed", -1, "data.seed must be a whole number of at least 0, not -1"),
        ("seed", True, "data.seed must be a whole number of at least 0, not True"),
        ("split_seed", 2**32, "data.split_seed must be at most 4294967295, not 4294967296"),
        ("split_seed", None, "data.split_seed must be a whole number of at least 0, not None"),
        ("image_size", 7, "data.image_size must be a whole number of at least 8, not 7"),
        ("crop_padding", -1, "data.crop_padding must be a whole number of at least 0, not -1"),
        ("crop_padding", 8, "data.crop_padding=8 is too large for images of 8 pixels: .* at most 7"),
        ("mean", (0.1, 0.2), r"data.mean must be a list of 1 number\(s\), one per channel, not \(0.1, 0.2\)"),
        ("std", 0.5, "data.std must be a list of 1 number"),
        ("std", "1", "data.std must be a list of 1 number"),
    ],
)
def test_wrong_arguments_are_named(argument: str, value: object, message: str):
    with pytest.raises(UserError, match=message):
        Digits(**{argument: value})
