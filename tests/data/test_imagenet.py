from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prunelab.data import ImageNet
from prunelab.data.imagenet_classes import synsets
from prunelab.errors import UserError


def ready(root: Path, **options) -> ImageNet:
    options = {
        "num_classes": 3,
        "image_size": 8,
        "resize": 10,
        "val_fraction": 0.2,
        "num_workers": 0,
    } | options
    data = ImageNet(root, **options)
    data.prepare_data()
    data.setup()
    return data


def test_name_classes_and_shape():
    data = ImageNet()
    assert (data.name, data.num_classes, data.image_shape) == ("imagenet", 1000, (3, 224, 224))


def test_the_val_folder_is_the_test_set(write_tree):
    root = write_tree({"train": 10, "val": 2})
    (root / "test").mkdir()  # as in ILSVRC-2012: images without classes
    Image.new("RGB", (8, 8)).save(root / "test" / "ILSVRC2012_test_1.JPEG")
    data = ready(root)
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 6)
    form = data.input_format
    assert (form.classes, form.resize, form.keep_aspect) == (("cat", "dog", "owl"), 10, True)
    assert set(data.train.indices) & set(data.val.indices) == set()


def test_test_images_are_resized_and_cut_at_the_centre(write_tree):
    root = write_tree({"train": 10, "val": 2}, size=(20, 16))
    images, targets = next(iter(ready(root).test_dataloader()))
    with Image.open(root / "val" / "cat" / "000.png") as image:
        resized = image.resize((12, 10), Image.Resampling.BILINEAR)  # shorter side 10
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[:, 1:9, 2:10] / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(images[0], (pixels - mean[:, None, None]) / std[:, None, None])
    assert targets.tolist() == [0, 0, 1, 1, 2, 2]


def test_with_caffes_preparation_training_uses_windows_of_a_square(write_tree):
    root = write_tree({"train": 10, "val": 2}, size=(20, 16))
    data = ready(root, keep_aspect=False, train_crop="window", flip=False)
    with Image.open(root / "val" / "cat" / "000.png") as image:
        resized = image.resize((10, 10), Image.Resampling.BILINEAR)
    square = data.transform.normalize(torch.from_numpy(np.array(resized)).permute(2, 0, 1))
    images, _ = next(iter(data.test_dataloader()))
    torch.testing.assert_close(images[0], square[:, 1:9, 1:9])

    (first, *_), squares = data.train.indices, ready(root, keep_aspect=False, image_size=10).train.source
    whole = squares.batch(np.array([first]), None)[0][0]
    windows = {(top, left): whole[:, top : top + 8, left : left + 8] for top in range(3) for left in range(3)}
    seen = set()
    for number in range(40):
        crop = data.train.source.batch(np.array([first]), torch.Generator().manual_seed(number))[0][0]
        seen |= {place for place, window in windows.items() if torch.equal(window, crop)}
    assert seen == set(windows)


def test_training_images_are_random_crops_that_the_seed_repeats(write_tree):
    root = write_tree({"train": 10, "val": 2}, size=(20, 16))
    first, second = (ready(root, num_workers=workers).train_dataloader() for workers in (0, 2))
    epochs = [torch.cat([images for images, _ in first]) for _ in range(2)]
    torch.manual_seed(5)
    assert torch.equal(torch.cat([images for images, _ in second]), epochs[0])
    assert not torch.equal(*epochs)
    other = ready(root, seed=1).train_dataloader()
    assert not torch.equal(torch.cat([images for images, _ in other]), epochs[0])


def test_reading_draws_no_random_numbers_of_the_training(write_tree):
    loader = ready(write_tree({"train": 10, "val": 2})).train_dataloader()
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_calibration_images_are_cut_at_the_centre(write_tree):
    data = ready(write_tree({"train": 10, "val": 2}, size=(20, 16)))
    images, _ = next(iter(data.calibration_dataloader(6)))
    chosen = data.calibration_dataloader(6).order.batches(0)[0]
    assert set(chosen) <= set(data.train.indices)
    assert torch.equal(images, data.train.source.batch(chosen, None)[0])


@pytest.mark.parametrize("found", [{"num_classes": 2}, {"num_classes": 100}])
def test_a_wrong_number_of_classes(write_tree, found):
    root = write_tree({"train": 10, "val": 2})
    with pytest.raises(UserError, match=r"train has 3 class folders instead of .*data.num_classes=3 for a"):
        ready(root, **found)


PART = ("n01443537", "n02123045", "n02129604")  # goldfish, tabby cat, tiger
INDICES = (1, 281, 292)


def test_some_of_the_1000_classes_have_imagenets_own_indices(write_tree):
    root = write_tree({"train": 10, "val": 2}, classes=PART)
    data = ready(root, num_classes=1000)
    assert sorted(set(data.train.targets)) == sorted(set(data.val.targets)) == sorted(INDICES)
    _, targets = next(iter(data.test_dataloader()))
    assert targets.tolist() == [1, 1, 281, 281, 292, 292]
    assert data.num_classes == len(data.class_names) == 1000
    assert [data.input_format.classes[index] for index in INDICES] == list(PART)


def test_with_some_of_the_1000_classes_training_and_test_may_have_different_ones(write_tree, caplog):
    root = write_tree({"train": 1}, classes=PART)  # one image of each class: some have no validation image
    write_tree({"val": 1}, classes=("n01440764", "n15075141"), root=root)
    caplog.set_level("INFO")
    data = ready(root, num_classes=1000)
    assert data.test.targets.tolist() == [0, 999]
    assert (len(data.train), len(data.val)) == (2, 1)
    assert "3 of ImageNet's 1000 classes in train/ and 2 in val/" in caplog.text


def test_all_classes_for_training_and_some_for_testing(write_tree):
    root = write_tree({"train": 2}, classes=synsets(), size=(1, 1))
    write_tree({"val": 1}, classes=PART, root=root)
    data = ready(root, num_classes=1000, val_fraction=0.5)
    assert data.test.targets.tolist() == list(INDICES)
    assert set(data.train.targets) == set(data.val.targets) == set(range(1000))


def test_a_part_of_imagenet_with_a_smaller_head_is_numbered_alphabetically(write_tree):
    data = ready(write_tree({"train": 10, "val": 1}, classes=PART), num_classes=3)
    assert (data.test.targets.tolist(), data.class_names) == ([0, 1, 2], PART)


def test_folders_without_wordnet_ids_are_no_part_of_imagenet(write_tree):
    root = write_tree({"train": 10, "val": 2}, classes=(*PART, "cat"))
    with pytest.raises(UserError, match=r"class of ImageNet: cat\..*data.num_classes=4"):
        ready(root, num_classes=1000)


def test_different_classes(write_tree):
    root = write_tree({"train": 10})
    write_tree({"val": 2}, classes=("cat", "dog", "fox"), root=root)
    with pytest.raises(UserError, match="Only in train/: owl; only in val/: fox"):
        ready(root)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("num_classes", 1, "data.num_classes must be a whole number of at least 2, not 1"),
        ("resize", 200, "data.resize must be a whole number of at least 224, not 200"),
        ("min_scale", 0.0, "data.min_scale must lie between 0 and 1"),
        ("train_crop", "windw", "data.train_crop: 'windw' does not exist. Did you mean 'window'"),
        ("keep_aspect", 1, "data.keep_aspect must be true or false, not 1"),
        ("num_workers", -1, "data.num_workers must be a whole number of at least 0, not -1"),
    ],
)
def test_wrong_arguments_are_named(argument: str, value: object, message: str):
    with pytest.raises(UserError, match=message):
        ImageNet(**{argument: value})
