"""VGG-16 for 32x32 images (Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, configuration D)."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from prunelab.models.default_cfg import default_cfg
from prunelab.models.initialization import initialize_convolutions

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class CifarVgg16Bn(nn.Module):
    """The 13 convolutions of VGG-16, each with a batch norm, and one linear layer 512 -> classes.

    This is the variant for CIFAR in papers on pruning (some have a second linear layer of 512 in between). The
    convolutions have no bias, because the batch norm after each of them would cancel it.

    The max-pools round up (``ceil_mode``), which changes nothing at 32x32 and permits smaller images: the maps of a
    28x28 image have 28, 14, 7, 4, 2 and 1 pixels, those of an 8x8 image 8, 4, 2, 1, 1 and 1. Pools and parameters are
    the same for every size. Input (N, in_chans, H, W) of any size, output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        stages: list[nn.Module] = []
        for widths in _STAGES:
            stages.append(_stage(in_chans, widths))
            in_chans = widths[-1]
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(in_chans, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.flatten(self.pool(self.stages(x))))


def _stage(in_channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    stage = nn.Sequential()
    for number, width in enumerate(widths, start=1):
        stage.add_module(f"conv{number}", nn.Conv2d(in_channels, width, 3, padding=1, bias=False))
        stage.add_module(f"bn{number}", nn.BatchNorm2d(width))
        stage.add_module(f"relu{number}", nn.ReLU(inplace=True))
        in_channels = width
    stage.add_module("pool", nn.MaxPool2d(2, ceil_mode=True))
    return stage


default_cfgs = generate_default_cfgs(
    {"cifar_vgg16_bn": default_cfg(first_conv="stages.0.conv1", classifier="linear")}
)


@register_model
def cifar_vgg16_bn(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """VGG-16 with batch norm: 626.4 MFLOPs and 14.72 M parameters at 32x32."""
    return build_model_with_cfg(CifarVgg16Bn, "cifar_vgg16_bn", pretrained, **arguments)
