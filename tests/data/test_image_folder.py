from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prunelab.data.image_folder
from prunelab.data import ImageFolder
from prunelab.data.decode import LISTED, decode_all
from prunelab.data.sources import FileImages, MemoryImages
from prunelab.errors import UserError


def ready(root: Path, **options) -> ImageFolder:
    small = {"image_size": 8, "crop_padding": 1, "batch_size": 8, "val_fraction": 0.25, "num_workers": 0}
    data = ImageFolder(root, **(small | options))
    data.prepare_data()
    data.setup()
    return data


def test_name_classes_and_shape(write_tree):
    data = ImageFolder(write_tree({"train": 4, "val": 2}), name="animals", image_size=16)
    assert (data.name, data.num_classes, data.image_shape) == ("animals", 3, (3, 16, 16))
    assert data.class_names == ("cat", "dog", "owl")
    form = data.input_format
    assert (form.classes, form.image_shape, form.resize) == (("cat", "dog", "owl"), (3, 16, 16), 16)
    assert (form.mean, form.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_a_constructor_reads_nothing(tmp_path: Path):
    ImageFolder(tmp_path / "nowhere", cache=tmp_path / "deep" / "cache.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["val", "test"])
def test_with_two_folders_validation_is_held_out_of_train(write_tree, part: str):
    data = ready(write_tree({"train": 10, part: 2}), val_fraction=0.2)
    assert (len(data.train), len(data.val), len(data.test)) == (24, 6, 6)
    assert np.bincount(data.val.targets).tolist() == [2, 2, 2]
    assert set(data.train.indices) & set(data.val.indices) == set()
    assert data.train.source is data.val.source is not data.test.source


@pytest.mark.parametrize("in_memory", [True, False])
def test_with_three_folders_each_has_the_role_of_its_name(write_tree, in_memory: bool):
    root = write_tree({"train": 10, "val": 3, "test": 2})
    data = ready(root, in_memory=in_memory)
    assert (len(data.train), len(data.val), len(data.test)) == (30, 9, 6)
    first = np.asarray(Image.open(root / "val" / "cat" / "000.png")).transpose(2, 0, 1) / 255
    image = data.val.source.batch(np.array([0]), None)[0][0]
    mean, std = (np.array(values)[:, None, None] for values in (data.transform.mean, data.transform.std))
    assert np.allclose(image, (first - mean) / std, atol=1e-5)


def test_memory_and_files_and_workers_give_the_same_batches(write_tree):
    root = write_tree({"train": 10, "val": 2}, size=(11, 9))
    variants = [
        ready(root, in_memory=True),
        ready(root, in_memory=False),
        ready(root, in_memory=False, num_workers=2),
    ]
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loaders = [getattr(data, name)() for data in variants]
        for one, two in itertools.pairwise([list(loader) for loader in loaders]):
            assert len(one) == len(two) > 0
            for (images, targets), (same, same_targets) in zip(one, two, strict=True):
                assert torch.equal(images, same) and torch.equal(targets, same_targets)


def test_auto_keeps_small_sets_in_memory(write_tree, monkeypatch: pytest.MonkeyPatch):
    root = write_tree({"train": 10, "val": 2})
    needed = 36 * 3 * 8 * 8
    monkeypatch.setattr(prunelab.data.image_folder, "AUTO_MEMORY_BYTES", needed)
    assert isinstance(ready(root).train.source, MemoryImages)
    monkeypatch.setattr(prunelab.data.image_folder, "AUTO_MEMORY_BYTES", needed - 1)
    assert isinstance(ready(root).train.source, FileImages)
    assert isinstance(ready(root, in_memory=True).train.source, MemoryImages)


def test_images_of_any_shape_are_cut_to_their_central_square(write_tree):
    root = write_tree({"train": 4, "val": 2})
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = [10, 20, 30]  # the centre; black beside it
    Image.fromarray(wide).save(root / "train" / "cat" / "000.png")
    data = ready(root)
    assert (data.train.source.images[0] == torch.tensor([10, 20, 30])[:, None, None]).all()


def test_one_mean_reads_grey_images(write_tree):
    data = ready(write_tree({"train": 4, "val": 2}), mean=[0.5], std=[0.25])
    assert data.image_shape == (1, 8, 8)
    assert next(iter(data.test_dataloader()))[0].shape == (6, 1, 8, 8)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_images_of_every_usual_mode_are_read(write_tree, mode: str):
    root = write_tree({"train": 4, "val": 2})
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(root / "val" / "cat" / "new.tiff")
    assert (ready(root).test.source.images[2] == 255).all()


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no image"}[how])


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
@pytest.mark.parametrize("in_memory", [True, False])
def test_an_unreadable_image_is_named(write_tree, how: str, in_memory: bool):
    root = write_tree({"train": 4, "val": 2})
    bad = root / "val" / "dog" / "001.png"
    damage(bad, how)
    with pytest.raises(UserError) as caught:
        list(ready(root, in_memory=in_memory, num_workers=1).test_dataloader())
    message = str(caught.value)
    assert message.startswith(f"1 image(s) cannot be read:\n  {bad}: ")
    assert "delete" not in message.lower() and "remove" not in message.lower()


@pytest.mark.parametrize("in_memory", [True, False])
def test_all_unreadable_images_are_listed_at_once(write_tree, in_memory: bool):
    root = write_tree({"train": 30, "val": 2})
    bad = [root / "train" / "cat" / f"{number:03}.png" for number in range(LISTED + 3)]
    for path in bad:
        damage(path, "text")
    data = ready(root, in_memory=False, batch_size=60)
    with pytest.raises(UserError) as caught:
        if in_memory:
            ready(root, in_memory=True)
        else:
            data.train.source.batch(np.arange(90), None)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{len(bad)} image(s) cannot be read:"
    assert [line.partition(": ")[0].strip() for line in lines[1 : LISTED + 1]] == [
        str(path) for path in bad[:LISTED]
    ]
    assert lines[LISTED + 1] == "  and 3 more"


def test_unreadable_images_of_training_and_test_are_in_one_list(write_tree):
    root = write_tree({"train": 4, "val": 2})
    for part in ("train", "val"):
        damage(root / part / "dog" / "001.png", "empty")
    with pytest.raises(UserError, match=r"2 image\(s\) cannot be read") as caught:
        ready(root)
    assert all(str(root / part / "dog" / "001.png") in str(caught.value) for part in ("train", "val"))


def test_a_truncated_jpeg_is_named(write_tree):
    root = write_tree({"train": 4, "val": 2})
    bad = root / "train" / "owl" / "zzz.jpg"
    Image.effect_noise((32, 32), 50).save(bad)
    damage(bad, "truncated")
    with pytest.raises(UserError, match=rf"{bad}: .*truncated"):
        ready(root)


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
@pytest.mark.parametrize(("mean", "channels"), [([0.5], 1), ([0.5] * 3, 3)])
def test_images_of_16_bits_are_read_with_their_high_bits(
    write_tree, name: str, mean: list[float], channels: int
):
    root = write_tree({"train": 4, "val": 2})
    values = np.array([0, 255, 256, 40_000, 65_535, 1, 32_768, 12_345] * 8, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(values).save(root / "val" / "cat" / name)
    images = ready(root, mean=mean, std=mean).test.source.images
    assert images.shape == (7, channels, 8, 8)
    assert np.array_equal(images[2], np.broadcast_to(values >> 8, (channels, 8, 8)))


def test_images_of_32_bits_are_errors(write_tree):
    root = write_tree({"train": 4, "val": 2})
    deep = root / "train" / "cat" / "deep.tiff"
    Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)).save(deep)
    with pytest.raises(UserError, match=f"{deep}: it has 32 bits per channel"):
        ready(root)


def test_too_few_images_for_validation(write_tree):
    with pytest.raises(UserError, match=r"Cannot hold 0\.25 of 3 training images out for validation"):
        ready(write_tree({"train": 1, "val": 2}))


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("in_memory", "yes", "data.in_memory must be auto, true or false, not 'yes'"),
        ("image_size", 0, "data.image_size must be a whole number of at least 1, not 0"),
        ("mean", [0.5, 0.5], r"data.mean must be a list of 1 or 3 number\(s\), one per channel"),
        ("std", [0.5], r"data.mean has 3 value\(s\) and data.std 1"),
        ("flip", "no", "data.flip must be true or false, not 'no'"),
        ("num_workers", -1, "data.num_workers must be a whole number of at least 0, not -1"),
    ],
)
def test_wrong_arguments_are_named(tmp_path: Path, argument: str, value: object, message: str):
    with pytest.raises(UserError, match=message):
        ImageFolder(tmp_path, **{argument: value})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the folders that were decoded."""
    calls: list[str] = []

    def spy(trees, size, channels):
        calls.extend(tree.folder.name for tree in trees.values())
        return decode_all(trees, size, channels)

    monkeypatch.setattr(prunelab.data.image_folder, "decode_all", spy)
    return calls


def test_a_cache_saves_decoding(write_tree, tmp_path: Path, decoded: list[str]):
    root, cache = write_tree({"train": 10, "val": 2}), tmp_path / "new" / "animals.safetensors"
    plain = ready(root)
    first = ready(root, cache=cache)
    assert decoded == ["train", "val"] * 2
    second = ready(root, cache=cache)
    assert decoded == ["train", "val"] * 2
    for data in (first, second):
        assert torch.equal(data.train.source.images, plain.train.source.images)
        assert torch.equal(data.test.source.images, plain.test.source.images)
    assert [path.name for path in cache.parent.iterdir()] == ["animals.safetensors"]


def test_a_cache_notices_a_changed_folder_and_another_size(write_tree, tmp_path: Path, decoded: list[str]):
    root, cache = write_tree({"train": 10, "val": 2}), tmp_path / "animals.safetensors"
    ready(root, cache=cache)
    Image.new("RGB", (8, 8)).save(root / "train" / "cat" / "new.png")
    assert len(ready(root, cache=cache).train.source.images) == 31
    assert ready(root, cache=cache, image_size=4).train.source.images.shape == (31, 3, 4, 4)
    assert len(decoded) == 6


def test_a_file_that_is_no_cache_is_not_overwritten(write_tree, tmp_path: Path):
    from safetensors.torch import save_file

    root = write_tree({"train": 10, "val": 2})
    weights, text = tmp_path / "model.safetensors", tmp_path / "notes.txt"
    save_file({"weight": torch.zeros(3)}, weights)
    text.write_text("mine")
    with pytest.raises(UserError, match=f"{weights} is not an image cache and is not overwritten"):
        ready(root, cache=weights)
    with pytest.raises(
        UserError, match=f"Cannot read {text} as an image cache: .* Choose another data.cache"
    ):
        ready(root, cache=text)
    assert text.read_text() == "mine"


def test_a_cache_that_cannot_be_written_is_reported(write_tree, tmp_path: Path):
    root = write_tree({"train": 10, "val": 2})
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"Cannot write the image cache .* Choose another data.cache"):
        ready(root, cache=tmp_path / "file" / "cache.safetensors")
