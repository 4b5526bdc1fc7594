"""ResNets for 32x32 images (He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2).

A network of 6n+2 layers: one 3x3 convolution, three stages of n blocks with 16, 32 and 64 channels, one linear layer.
The survey names its network for CIFAR-10 "ResNet-52", but 52 is not of the form 6n+2; the papers that it cites use 56
(n = 9).

Parameter names are those of Idelbayev's ``pytorch_resnet_cifar10``: ``conv1``, ``bn1``,
``layer{1,2,3}.{i}.{conv1,bn1,conv2,bn2}``, ``linear``, so that its weight files can be loaded without changes.
"""

from __future__ import annotations

from typing import Any, Literal

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from prunelab.models.default_cfg import default_cfg
from prunelab.models.initialization import initialize_convolutions
from prunelab.models.zero_pad import ZeroPadShortcut

Shortcut = Literal["A", "B"]


class CifarResNet(nn.Module):
    """A CIFAR ResNet of ``6 * blocks_per_stage + 2`` layers.

    Input (N, in_chans, H, W) of any size; the maps of the three stages have the heights H, H/2 and H/4 (rounded up).
    Output (N, num_classes).

    ``shortcut`` is the shortcut between two stages: "A" pads with zero channels and has no parameters (the variant of
    the paper for CIFAR), "B" projects with a 1x1 convolution and a batch norm.
    """

    def __init__(
        self, blocks_per_stage: int, num_classes: int = 10, in_chans: int = 3, shortcut: Shortcut = "A"
    ) -> None:
        super().__init__()
        if shortcut not in ("A", "B"):
            raise ValueError(f"shortcut must be 'A' (zero padding) or 'B' (projection), not {shortcut!r}")
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = _stage(16, 16, blocks_per_stage, 1, shortcut)
        self.layer2 = _stage(16, 32, blocks_per_stage, 2, shortcut)
        self.layer3 = _stage(32, 64, blocks_per_stage, 2, shortcut)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(64, num_classes)
        initialize_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        return self.linear(self.flatten(self.pool(x)))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut around them: ``relu(f(x) + shortcut(x))`` (figure 2)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride, shortcut)
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu1(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        return self.relu2(branch + self.shortcut(x))


def _stage(
    in_channels: int, out_channels: int, blocks: int, stride: int, shortcut: Shortcut
) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride, shortcut)
    return nn.Sequential(
        first, *(BasicBlock(out_channels, out_channels, 1, shortcut) for _ in range(blocks - 1))
    )


def _shortcut(in_channels: int, out_channels: int, stride: int, shortcut: Shortcut) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    if shortcut == "A":
        return ZeroPadShortcut(in_channels, out_channels, stride)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


_DEPTHS = (20, 32, 44, 56, 110)
default_cfgs = generate_default_cfgs(
    {f"cifar_resnet{depth}": default_cfg(first_conv="conv1", classifier="linear") for depth in _DEPTHS}
)


def _cifar_resnet(depth: int, pretrained: bool, /, **arguments: Any) -> nn.Module:
    return build_model_with_cfg(
        CifarResNet, f"cifar_resnet{depth}", pretrained, blocks_per_stage=(depth - 2) // 6, **arguments
    )


@register_model
def cifar_resnet20(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """ResNet-20: 81.10 MFLOPs at 32x32 and 0.270 M parameters (option A)."""
    return _cifar_resnet(20, pretrained, **arguments)


@register_model
def cifar_resnet32(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """ResNet-32."""
    return _cifar_resnet(32, pretrained, **arguments)


@register_model
def cifar_resnet44(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """ResNet-44."""
    return _cifar_resnet(44, pretrained, **arguments)


@register_model
def cifar_resnet56(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """ResNet-56 ("ResNet-52" in the survey): 250.97 MFLOPs at 32x32 and 0.853 M parameters (option A)."""
    return _cifar_resnet(56, pretrained, **arguments)


@register_model
def cifar_resnet110(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """ResNet-110."""
    return _cifar_resnet(110, pretrained, **arguments)
