from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from prunelab.data import Digits


def read(image_size: int = 8) -> torch.Tensor:
    data = Digits(image_size=image_size)
    data.setup()
    return data.train.source.images


def test_name_classes_and_shape():
    data = Digits()
    assert (data.name, data.num_classes, data.image_shape) == ("digits", 10, (1, 8, 8))
    assert Digits(image_size=32).image_shape == (1, 32, 32)


def test_grey_values_fill_a_byte():
    images = read()
    assert images.dtype == torch.uint8 and images.shape == (1797, 1, 8, 8)
    assert np.array_equal(images[:, 0].numpy(), np.round(load_digits().images * 255 / 16))


def test_images_are_enlarged_bilinearly():
    small, large = read().float(), read(16).float()
    assert large.shape == (1797, 1, 16, 16)
    # Two pixels of the large image lie a quarter of a small pixel to each side of a small one's centre.
    between = 0.75 * small[:, :, 0, 3] + 0.25 * small[:, :, 0, 4]
    assert (large[:, :, 0, 7] - between).abs().max() <= 1


def test_the_default_normalisation_is_that_of_the_images():
    values = load_digits().images / 16
    data = Digits()
    assert abs(values.mean() - data.transform.mean[0]) < 1e-4
    assert abs(values.std() - data.transform.std[0]) < 1e-4
