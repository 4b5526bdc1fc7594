"""The networks have the cost and size stated in the papers, and run at the documented sizes of images."""

from __future__ import annotations

from functools import partial

import pytest
import timm
import torch
from timm.models.resnet import Bottleneck
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prunelab.models import CifarResNet, LeNet5, build

pytestmark = pytest.mark.slow

SMALL = [
    *(f"cifar_resnet{depth}" for depth in (20, 32, 44, 56, 110)),
    *("cifar_vgg16_bn", "cifar_mobilenetv1", "cifar_mobilenetv2"),
]


def cost(name: str, image: tuple[int, int, int], num_classes: int = 10, **arguments: str) -> tuple[int, int]:
    """FLOPs (2 x MACs, plus the classifier's bias; no other layer here has one) and parameters."""
    with torch.device("meta"):
        model = build(name, num_classes, in_chans=image[0], **arguments).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, *image))
    return counter.get_total_flops() + num_classes, sum(parameter.numel() for parameter in model.parameters())


def test_resnet56_has_the_cost_in_the_paper() -> None:
    flops, parameters = cost("cifar_resnet56", (3, 32, 32))
    assert flops == 250_971_402
    assert parameters == 853_018


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (110, 1_727_962)]
)
def test_resnets_have_the_parameters_of_table_6(depth: int, parameters: int) -> None:
    assert cost(f"cifar_resnet{depth}", (3, 32, 32))[1] == parameters


def test_projections_cost_two_1x1_convolutions_and_their_norms() -> None:
    plain_flops, plain_parameters = cost("cifar_resnet20", (3, 32, 32))
    flops, parameters = cost("cifar_resnet20", (3, 32, 32), shortcut="B")
    assert flops - plain_flops == 2 * (16 * 16 * 16 * 32 + 8 * 8 * 32 * 64)
    assert parameters - plain_parameters == 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64


def test_resnet50_v1_has_the_stride_on_the_first_convolution() -> None:
    flops, parameters = cost("resnet50_v1", (3, 224, 224), 1000)
    assert flops == 7_715_947_496
    assert parameters == 25_557_032
    blocks = [block for block in build("resnet50_v1", 10).modules() if isinstance(block, Bottleneck)]
    assert [block.conv1.stride for block in blocks].count((2, 2)) == 3
    assert all(block.conv2.stride == (1, 1) for block in blocks)


def test_timm_resnet50_has_the_stride_on_the_second_convolution() -> None:
    assert cost("resnet50", (3, 224, 224), 1000)[0] == 8_178_369_512


def test_vgg16_costs_its_thirteen_convolutions_and_one_linear_layer() -> None:
    widths = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 512)]
    widths += [(512, 512)] * 5
    sides = [32, 32, 16, 16, 8, 8, 8, 4, 4, 4, 2, 2, 2]
    macs = sum(side * side * 9 * a * b for side, (a, b) in zip(sides, widths, strict=True)) + 512 * 10
    flops, parameters = cost("cifar_vgg16_bn", (3, 32, 32))
    assert flops == 2 * macs + 10 == 626_403_338
    assert parameters == sum(9 * a * b + 2 * b for a, b in widths) + 512 * 10 + 10 == 14_724_042


def test_mobilenetv1_costs_its_separable_convolutions() -> None:
    blocks = [(32, 64, 32), (64, 128, 16), (128, 128, 16), (128, 256, 8), (256, 256, 8), (256, 512, 4)]
    blocks += [(512, 512, 4)] * 5 + [(512, 1024, 2), (1024, 1024, 2)]
    macs = 32 * 32 * 27 * 32 + sum(side * side * (9 * a + a * b) for a, b, side in blocks) + 1024 * 10
    flops, parameters = cost("cifar_mobilenetv1", (3, 32, 32))
    assert flops == 2 * macs + 10
    assert parameters == 27 * 32 + 64 + sum(9 * a + 2 * a + a * b + 2 * b for a, b, _ in blocks) + 10_250


def test_mobilenetv2_has_the_parameters_of_the_imagenet_network() -> None:
    flops, parameters = cost("cifar_mobilenetv2", (3, 32, 32))
    original = timm.create_model("mobilenetv2_100", num_classes=10)
    assert parameters == sum(parameter.numel() for parameter in original.parameters())
    # Sides seen by the blocks (expanded map, output map): stages of 16, 24, 32, 64, 96, 160 and 320 channels.
    stages = [(32, 1, 16, [(32, 32)]), (16, 6, 24, [(32, 32)] * 2), (24, 6, 32, [(32, 16), *[(16, 16)] * 2])]
    stages += [(32, 6, 64, [(16, 8), *[(8, 8)] * 3]), (64, 6, 96, [(8, 8)] * 3)]
    stages += [(96, 6, 160, [(8, 4), *[(4, 4)] * 2]), (160, 6, 320, [(4, 4)])]
    macs = 32 * 32 * 27 * 32 + 4 * 4 * 320 * 1280 + 1280 * 10
    for width, expansion, out, sides in stages:
        for before, after in sides:
            hidden = expansion * width
            expand = before * before * width * hidden if expansion > 1 else 0
            macs += expand + after * after * (9 * hidden + hidden * out)
            width = out
    assert flops == 2 * macs + 10


def test_lenet_has_the_parameters_of_the_paper() -> None:
    assert cost("lenet5", (1, 28, 28))[1] == 61_706
    assert cost("lenet5", (1, 32, 32))[1] == 61_706


@pytest.mark.parametrize("name", [*SMALL, "lenet5", "resnet50_v1"])
def test_every_network_runs_forward_and_backward_at_32x32(name: str) -> None:
    assert_trains(build(name, num_classes=7, image_size=32), torch.randn(2, 3, 32, 32), 7)


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("side", [8, 28])
def test_networks_for_small_images_run_on_grey_ones_of_any_size(name: str, side: int) -> None:
    model = build(name, num_classes=10, in_chans=1, image_size=side)
    assert_trains(model, torch.randn(2, 1, side, side), 10)


def assert_trains(model: nn.Module, images: Tensor, num_classes: int) -> None:
    logits = model(images)
    assert logits.shape == (len(images), num_classes)
    logits.square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("name", [*SMALL, "lenet5", "resnet50_v1"])
def test_timm_has_input_classes_and_the_names_of_the_ends(name: str) -> None:
    model = timm.create_model(name)
    config = model.pretrained_cfg
    first_conv = model.get_submodule(config["first_conv"])
    classifier = model.get_submodule(config["classifier"])
    assert (first_conv.in_channels, classifier.out_features) == (
        config["input_size"][0],
        config["num_classes"],
    )
    assert model.num_classes == config["num_classes"]


def test_resnet_parameters_are_named_as_in_the_published_files() -> None:
    names = {name for name, _ in build("cifar_resnet20", 10).named_parameters()}
    expected = {"conv1.weight", "bn1.weight", "bn1.bias", "linear.weight", "linear.bias"}
    for stage in (1, 2, 3):
        for block in range(3):
            for layer in (1, 2):
                prefix = f"layer{stage}.{block}"
                expected |= {
                    f"{prefix}.conv{layer}.weight",
                    f"{prefix}.bn{layer}.weight",
                    f"{prefix}.bn{layer}.bias",
                }
    assert names == expected


def test_activations_are_modules_used_once_per_forward_pass() -> None:
    for model in (
        CifarResNet(1),
        LeNet5(in_chans=3),
        build("cifar_mobilenetv2", 10),
        build("cifar_vgg16_bn", 10),
    ):
        activations = [module for module in model.modules() if isinstance(module, nn.ReLU | nn.ReLU6)]
        calls: list[nn.Module] = []
        for activation in activations:
            activation.register_forward_hook(partial(record_call, calls))
        model.eval()(torch.randn(1, 3, 32, 32))
        assert len(calls) == len(activations) == len(set(map(id, calls)))


def record_call(calls: list[nn.Module], module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
    calls.append(module)
