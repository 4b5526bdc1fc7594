"""The names of the classes, the normalisation and the size of images are saved with a network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

import prunelab
from prunelab.errors import UserError
from prunelab.experiment import run
from prunelab.models import build
from prunelab.records import InputFormat

Configure = Callable[..., dict[str, Any]]
CLASSES = ("cat", "dog", "owl")
FORM = InputFormat((3, 32, 32), (0.5, 0.4, 0.3), (0.25, 0.2, 0.2), 36, True, CLASSES)


def network() -> nn.Module:
    return build("cifar_resnet20", num_classes=3, image_size=32)


def saved(folder: Path) -> Path:
    model = network()
    model.prunelab_input = FORM  # type: ignore[assignment]
    return prunelab.save(model, folder)


def test_it_is_loaded_and_saved_again(tmp_path: Path) -> None:
    loaded = prunelab.load(saved(tmp_path / "one"))
    assert (loaded.prunelab_input, loaded.classes) == (FORM, CLASSES)

    again = prunelab.load(prunelab.save(loaded, tmp_path / "other"))
    assert (again.prunelab_input, again.classes) == (FORM, CLASSES)


def test_a_network_without_one_has_none(tmp_path: Path) -> None:
    loaded = prunelab.load(prunelab.save(network(), tmp_path))
    assert not hasattr(loaded, "classes") and not hasattr(loaded, "prunelab_input")


def test_an_attribute_of_the_network_is_kept(tmp_path: Path) -> None:
    model = network()
    model.classes = 3  # type: ignore[assignment]
    loaded = prunelab.load(saved(tmp_path), model)
    assert (loaded.classes, loaded.prunelab_input.classes) == (3, CLASSES)


@pytest.mark.parametrize(
    ("name", "value"),
    [("classes", "cat"), ("mean", [0.5, "x"]), ("image_shape", [3, 32]), ("resize", None), ("std", None)],
)
def test_a_wrong_one_is_an_error(tmp_path: Path, name: str, value: object) -> None:
    file = saved(tmp_path) / "plan.json"
    page = json.loads(file.read_text())
    page["input"][name] = value
    page.pop("page_sha256")
    page["page_sha256"] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps(page))
    with pytest.raises(UserError, match=rf"The input format in .*plan.json is not valid: {name} should be"):
        prunelab.load(tmp_path)


@pytest.mark.slow
def test_the_network_of_a_run_on_photos_has_class_names(smallest: Configure, tmp_path: Path) -> None:
    """The transform in the documentation of InputFormat gives the images of the run's own data module."""
    photos = tmp_path / "photos"
    pixels = np.random.default_rng(0)
    for part, number in (("train", 20), ("val", 4)):
        for label in CLASSES:
            (photos / part / label).mkdir(parents=True)
            for index in range(number):
                values = pixels.integers(0, 256, (48, 40, 3), dtype=np.uint8)
                Image.fromarray(values).save(photos / part / label / f"{index}.png")
    words = ["data=image_folder", f"data.root={photos}", "data.image_size=24", "data.num_workers=0"]

    outcome = run(smallest(*words))

    loaded = prunelab.load(outcome.folder.path)
    form = loaded.prunelab_input
    assert loaded.classes == CLASSES
    assert (form.image_shape, form.mean) == ((3, 24, 24), (0.485, 0.456, 0.406))
    transform = v2.Compose(
        [
            v2.Resize(form.resize),
            v2.CenterCrop(form.image_shape[1:]),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(form.mean, form.std),
        ]
    )
    with Image.open(photos / "val" / "cat" / "0.png") as photo:
        image = transform(photo)
    from prunelab.data import ImageFolder

    data = ImageFolder(photos, image_size=24, num_workers=0)
    data.setup()
    images, _ = next(iter(data.test_dataloader()))
    assert (image - images[0]).abs().mean() < 0.2  # two resamplings of noise whose values span about 4
    assert loaded(image[None]).shape == (1, 3)
