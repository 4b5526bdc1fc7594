"""The setting ``exclude``: names that are not groups, and a word instead of a list. Its effect: ``test_battery``."""

from __future__ import annotations

import pytest
import torch

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.methods import PruningMethod
from prunelab.models import build
from prunelab.steps import Setup


def method_of(name: str, *words: str) -> PruningMethod:
    return Setup.of(
        configure([f"method={name}", "budget.flops=0.6", "recipe.calibration_images=32", *words])
    ).method


def test_a_name_that_is_no_group_is_an_error() -> None:
    method = method_of("l1", "exclude=[layer3.1.conv]")
    network = build("cifar_resnet20", num_classes=5, in_chans=3, image_size=(8, 8))
    with pytest.raises(UserError, match=r"Did you mean 'layer3\.1\.conv1'"):
        method.context(network, torch.zeros(1, 3, 8, 8))


def test_one_word_is_not_a_list() -> None:
    with pytest.raises(UserError, match=r"write a list, such as exclude=\[conv1\]"):
        method_of("l1", "exclude=conv1")
