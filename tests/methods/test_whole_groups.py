"""Groups that are named as whole lose nothing, whatever the method, and the others meet the budget without them."""

from __future__ import annotations

import pytest
import torch

from prunelab.cli.config import configure
from prunelab.errors import UserError
from prunelab.methods import PruningMethod
from prunelab.models import build
from prunelab.steps import Setup

METHODS = ("l1", "bn_gamma", "apoz", "taylor", "hrank", "pfa", "nisp", "curl", "thinet", "eagleeye", "sfp")
IMAGES = [(torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 5)]


def method_of(name: str, *words: str) -> PruningMethod:
    return Setup.of(
        configure([f"method={name}", "budget.flops=0.6", "recipe.calibration_images=32", *words])
    ).method


@pytest.mark.parametrize("name", METHODS)
def test_a_whole_group_loses_nothing(name: str) -> None:
    few = ["method.candidates=2", "method.draws=500"] if name == "eagleeye" else []
    method = method_of(name, "exclude=[layer1,layer3.1.conv1]", *few)
    network = build("cifar_resnet20", num_classes=5, in_chans=3, image_size=(8, 8))
    context = method.context(network, IMAGES[0][0][:1], IMAGES, validation=IMAGES)
    plan = method.decide(context)
    assert plan.widths["layer1"] == (16, 16)
    assert plan.widths["layer3.1.conv1"] == (64, 64)
    assert any(left < width for width, left in plan.widths.values())
    assert 0.55 < context.graph.cost.flops(plan) / context.graph.cost.flops() <= 0.6


def test_a_name_that_is_no_group_is_refused() -> None:
    method = method_of("l1", "exclude=[layer3.1.conv]")
    network = build("cifar_resnet20", num_classes=5, in_chans=3, image_size=(8, 8))
    with pytest.raises(UserError, match=r"Did you mean 'layer3\.1\.conv1'"):
        method.context(network, IMAGES[0][0][:1])


def test_one_word_is_no_list() -> None:
    with pytest.raises(UserError, match=r"write a list, such as exclude=\[conv1\]"):
        method_of("l1", "exclude=conv1")
