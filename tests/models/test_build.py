"""Networks by name: what is built, and the errors."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from prunelab.errors import UserError
from prunelab.models import Origin, build


def test_a_network_has_its_origin() -> None:
    model = build("cifar_resnet20", num_classes=4, in_chans=1, image_size=8, shortcut="B")
    assert model.prunelab_origin == Origin(
        "timm", "cifar_resnet20", {"num_classes": 4, "in_chans": 1, "shortcut": "B"}
    )
    assert model.training
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 4)


def test_any_timm_network_can_be_built() -> None:
    model = build("mobilenetv2_100", num_classes=3, image_size=(64, 48), drop_rate=0.2)
    assert model.eval()(torch.randn(1, 3, 64, 48)).shape == (1, 3)


def test_the_size_check_does_not_change_the_network() -> None:
    model = build("cifar_resnet20", 10, image_size=32)
    assert model.bn1.num_batches_tracked == 0
    assert all(module.training for module in model.modules())
    assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cifar_resnet52", r"There is no model 'cifar_resnet52'\. Did you mean 'cifar_resnet56'"),
        ("hf-hub:timm/resnet18", "There is no model 'hf-hub:timm/resnet18'"),
        ("local-dir:/somewhere", "There is no model"),
        ("resnet18.a9_in1k", r"resnet18 has no weights 'a9_in1k'\. Did you mean .*'resnet18.a1_in1k'"),
        ("lenet5.mnist", r"lenet5 has no weights 'mnist'\. No weights are published: use 'lenet5'\."),
    ],
)
def test_errors_for_unknown_names_suggest_similar_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, 10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shortcut": "C"}, "shortcut must be 'A' .* or 'B' .*, not 'C'"),
        (
            {"depth": 20},
            "cifar_resnet20 cannot be built with .*depth=20.* unexpected keyword argument 'depth'",
        ),
        ({"shortcut": print}, "must be JSON values"),
        (
            {"checkpoint_path": "net.pth"},
            "checkpoint_path is not allowed among the arguments of cifar_resnet20",
        ),
        ({"image_size": 8, "in_chans": 0}, "num_classes=10 and in_chans=0 must both be at least 1"),
    ],
)
def test_impossible_arguments_are_errors(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("cifar_resnet20", 10, **arguments)


def test_an_unknown_layer_type_is_an_error() -> None:
    with pytest.raises(UserError, match=r"resnet18 cannot be built with .*act_layer='foo': 'foo' is unknown"):
        build("resnet18", 10, act_layer="foo")


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("lenet5", 8, r"lenet5 does not accept images of 8x8 pixels \(.*Kernel size.*\)\. It accepts 28x28"),
        ("lenet5", 27, "lenet5 does not accept images of 27x27 pixels"),
        pytest.param(
            "vgg11_bn",
            8,
            r"vgg11_bn does not accept images of 8x8 pixels .*It accepts 32x32.*cifar_resnet20",
            marks=pytest.mark.slow,
        ),
        ("vit_tiny_patch16_224", 32, "It accepts 224x224.* or build it .* with the argument img_size=32"),
    ],
)
def test_images_too_small_are_errors(name: str, side: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(name, 10, image_size=side)


def test_a_network_that_does_not_classify_is_an_error() -> None:
    with pytest.raises(UserError, match=r"resnet18 does not classify into 10 classes: .* is list"):
        build("resnet18", 10, image_size=32, features_only=True)


def test_weights_that_were_never_published_are_errors() -> None:
    with pytest.raises(UserError, match="There are no published weights of cifar_resnet20"):
        build("cifar_resnet20", 10, pretrained=True)


def test_weights_that_cannot_be_downloaded_are_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match=r"The pretrained weights of resnet18 could not be downloaded: .*HF_HOME"
    ):
        build("resnet18", 10, pretrained=True)
