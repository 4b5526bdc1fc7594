from __future__ import annotations

from pathlib import Path

import pytest
import torch

from prunelab.data import ImageFolder
from prunelab.data.loose_images import loose_images
from prunelab.errors import UserError
from prunelab.records import InputFormat

FORM = InputFormat((3, 8, 8), (0.5,) * 3, (0.25,) * 3, 8, True, ("cat", "dog", "owl"))


def test_parts_have_the_roles_of_their_names_and_the_images_those_of_the_data_set(write_tree) -> None:
    root = write_tree({"train": 4, "val": 3})
    training, held_out = loose_images(root, FORM, 6, 100)
    assert {file.parent.parent.name for file in training.files} == {"train"}
    assert len(training.files) == 6 and {file.parent.name for file in training.files} == set(FORM.classes)
    data = ImageFolder(root, image_size=8, mean=FORM.mean, std=FORM.std, num_workers=0, val_fraction=0.5)
    data.setup()
    (images, classes), (same, targets) = next(iter(held_out)), next(iter(data.test_dataloader()))
    assert classes is not None
    torch.testing.assert_close(images, same)
    assert classes.tolist() == targets.tolist()


def test_a_folder_without_parts_is_shared_out(write_tree, tmp_path: Path) -> None:
    root = write_tree({"some": 3}, classes=("fox", "dog"))
    first, second = loose_images(root, FORM, 100, 100)
    assert len(first.files) == len(second.files) == 3 and not set(first.files) & set(second.files)
    assert next(iter(first))[1] is None  # fox is no class of the network
    with pytest.raises(UserError, match=r"There is no folder .*none"):
        loose_images(tmp_path / "none", FORM, 1, 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="too few images"):
        loose_images(tmp_path / "empty", FORM, 1, 1)
