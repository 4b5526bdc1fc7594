"""Defects of a folder of images, reported by the data modules that read it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from PIL import Image

from prunelab.data import ImageFolder, ImageNet
from prunelab.data.tree import read_tree
from prunelab.errors import UserError


def message_of(data: ImageFolder | ImageNet) -> str:
    with pytest.raises(UserError) as caught:
        data.setup()
    return str(caught.value)


def test_files_and_classes_are_listed_in_alphabetical_order(write_tree):
    root = write_tree({"train": 2}, classes=("owl", "cat"))
    (root / "train" / "cat" / "more").mkdir()
    Image.new("RGB", (4, 4)).save(root / "train" / "cat" / "more" / "x.JPG", format="jpeg")
    tree = read_tree(root / "train")
    assert tree.classes == ("cat", "owl")
    listed = [str(tree.path(index).relative_to(root / "train")) for index in range(len(tree))]
    assert listed == ["cat/000.png", "cat/001.png", "cat/more/x.JPG", "owl/000.png", "owl/001.png"]
    assert tree.targets.tolist() == [0, 0, 0, 1, 1]


def test_hidden_files_and_litter_are_passed_over(write_tree):
    root = write_tree({"train": 2})
    for name in (".DS_Store", "Thumbs.db", "cat/.hidden.png", "cat/desktop.ini", ".cache/x.txt"):
        (root / "train" / name).parent.mkdir(exist_ok=True)
        (root / "train" / name).touch()
    assert len(read_tree(root / "train")) == 6


def test_missing_root(tmp_path: Path):
    root = tmp_path / "nowhere"
    message = message_of(ImageFolder(root))
    assert message.startswith(
        f"There is no folder {root}. Set data.root to a folder that holds train/<class>/"
    )
    assert "image-net.org" in message_of(ImageNet(root))


def test_root_one_level_too_high(write_tree, tmp_path: Path):
    root = write_tree({"train": 2, "val": 2})
    message = message_of(ImageFolder(tmp_path))
    assert f"{tmp_path} has no folder train/." in message and f"Did you mean data.root={root}?" in message


def test_missing_test_folder(write_tree):
    root = write_tree({"train": 2})
    assert f"{root} has no folder test/ or val/." in message_of(ImageFolder(root))
    assert f"{root} has no folder val/." in message_of(ImageNet(root, num_classes=3))


def test_no_classes(write_tree, tmp_path: Path):
    root = write_tree({"train": 2, "val": 2})
    (tmp_path / "tree" / "val").rename(tmp_path / "away")
    (root / "val").mkdir()
    assert message_of(ImageFolder(root)).startswith(f"{root / 'val'} has no class folders. Put the images of")


def test_images_that_are_not_sorted_into_classes(write_tree):
    root = write_tree({"train": 2, "val": 2})
    for number in range(3):
        Image.new("RGB", (4, 4)).save(root / "val" / f"ILSVRC2012_val_{number}.JPEG")
    message = message_of(ImageNet(root, num_classes=3))
    assert f"3 image(s) lie directly in {root / 'val'} and have no class: ILSVRC2012_val_0.JPEG" in message
    assert f"{root / 'val'}/<class>/ILSVRC2012_val_0.JPEG" in message


def test_a_single_class(write_tree):
    root = write_tree({"train": 4, "val": 2}, classes=("cat",))
    assert f"{root / 'train'} has only one class folder, cat/." in message_of(ImageFolder(root))


def test_all_classes_without_images_are_listed(write_tree):
    root = write_tree({"train": 4, "val": 2})
    for name in ("ape", "yak"):
        (root / "train" / name).mkdir()
    message = message_of(ImageFolder(root))
    assert message.startswith(f"2 class folder(s) in {root / 'train'} contain no images: ape, yak.")


def test_different_classes(write_tree):
    root = write_tree({"train": 4})
    write_tree({"val": 2}, classes=("cat", "dog", "fox", "yak"), root=root)
    message = message_of(ImageFolder(root))
    assert f"{root / 'train'} and {root / 'val'} have different classes." in message
    assert "Only in train/: owl; only in val/: fox, yak." in message


@pytest.mark.parametrize("cache", [False, True])
def test_files_that_are_no_images_are_skipped_with_one_count(
    write_tree, tmp_path: Path, caplog: pytest.LogCaptureFixture, cache: bool
):
    root = write_tree({"train": 4, "val": 2})
    for name in ("cat/labels.xml", "dog/boxes.txt", "dog/clip.mp4"):
        (root / "train" / name).write_text("1 2 3 4")
    data = ImageFolder(root, val_fraction=0.25, cache=tmp_path / "cache.safetensors" if cache else None)
    data.prepare_data()
    data.setup()
    assert (len(data.train), len(data.val)) == (9, 3)
    (said,) = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert f"{root / 'train'}: 3 file(s) that are not images were skipped" in said and "labels.xml" in said


def test_a_folder_that_may_not_be_read(write_tree, monkeypatch: pytest.MonkeyPatch):
    root = write_tree({"train": 4, "val": 2})
    locked, scandir = str(root / "train" / "dog"), os.scandir

    def fail(folder):  # file permissions would not stop a superuser
        if str(folder) == locked:
            raise PermissionError(errno.EACCES, "Permission denied", locked)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", fail)
    assert message_of(ImageFolder(root)) == f"Cannot list the folder {locked}: Permission denied."


def test_the_fingerprint_notices_every_change(write_tree):
    root = write_tree({"train": 2})
    image = root / "train" / "cat" / "000.png"
    prints = [read_tree(root / "train").fingerprint()]
    assert read_tree(root / "train").fingerprint() == prints[0]
    os.utime(image, ns=(1, 1))
    prints.append(read_tree(root / "train").fingerprint())
    image.write_bytes(image.read_bytes() + b"0")
    os.utime(image, ns=(1, 1))
    prints.append(read_tree(root / "train").fingerprint())
    image.rename(image.with_name("zzz.png"))
    prints.append(read_tree(root / "train").fingerprint())
    assert len(set(prints)) == 4
