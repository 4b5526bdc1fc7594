"""MobileNets for 32x32 images: the ImageNet networks with fewer strides of 2."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from prunelab.models.default_cfg import default_cfg
from prunelab.models.initialization import initialize_convolutions


class CifarMobileNetV1(nn.Module):
    """MobileNetV1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861, table 1) for small images.

    The first convolution has a stride of 1 instead of 2; the maps of the last block have the height H/16 (rounded up).
    Input (N, in_chans, H, W) of any size, output (N, num_classes).
    """

    WIDTHS = (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu = nn.ReLU(inplace=True)
        blocks: list[nn.Module] = []
        width = 32
        for out_channels, stride in zip(self.WIDTHS, self.STRIDES, strict=True):
            blocks.append(SeparableConv(width, out_channels, stride))
            width = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(width, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.linear(self.flatten(self.pool(self.blocks(x))))


class SeparableConv(nn.Module):
    """A depthwise 3x3, then a 1x1 convolution, each with batch norm and ReLU (figure 3, right)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride=stride, padding=1, groups=in_channels, bias=False
        )
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.depthwise(x)))
        return self.relu2(self.bn2(self.pointwise(x)))


class CifarMobileNetV2(nn.Module):
    """MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381, table 2) for small images.

    The first convolution and the 24-channel stage have a stride of 1 instead of 2; the maps of the last stage have the
    height H/8 (rounded up). Input (N, in_chans, H, W) of any size, output (N, num_classes).
    """

    # (expansion, output channels, blocks, stride of the first block)
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 32, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.relu1 = nn.ReLU6(inplace=True)
        blocks: list[nn.Module] = []
        width = 32
        for expansion, out_channels, repeats, first_stride in self.STAGES:
            for number in range(repeats):
                blocks.append(
                    InvertedResidual(width, out_channels, expansion, first_stride if number == 0 else 1)
                )
                width = out_channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = nn.Conv2d(width, 1280, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1280)
        self.relu2 = nn.ReLU6(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(1280, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(self.blocks(x))))
        return self.linear(self.flatten(self.pool(x)))


class InvertedResidual(nn.Module):
    """Expand (1x1), filter (depthwise 3x3), project (1x1, no activation); a shortcut if the shapes are equal."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.expand = _conv_bn_relu6(in_channels, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden, bias=False)
        self.bn1 = nn.BatchNorm2d(hidden)
        self.relu = nn.ReLU6(inplace=True)
        self.project = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu(self.bn1(self.depthwise(self.expand(x))))
        branch = self.bn2(self.project(branch))
        return branch + x if self.has_shortcut else branch


def _conv_bn_relu6(in_channels: int, out_channels: int) -> nn.Sequential:
    layers = nn.Sequential()
    layers.add_module("conv", nn.Conv2d(in_channels, out_channels, 1, bias=False))
    layers.add_module("bn", nn.BatchNorm2d(out_channels))
    layers.add_module("relu", nn.ReLU6(inplace=True))
    return layers


default_cfgs = generate_default_cfgs(
    {
        "cifar_mobilenetv1": default_cfg(first_conv="conv1", classifier="linear"),
        "cifar_mobilenetv2": default_cfg(first_conv="conv1", classifier="linear"),
    }
)


@register_model
def cifar_mobilenetv1(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """MobileNetV1 for CIFAR."""
    return build_model_with_cfg(CifarMobileNetV1, "cifar_mobilenetv1", pretrained, **arguments)


@register_model
def cifar_mobilenetv2(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """MobileNetV2 for CIFAR."""
    return build_model_with_cfg(CifarMobileNetV2, "cifar_mobilenetv2", pretrained, **arguments)
