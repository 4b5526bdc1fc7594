"""LeNet-5 (LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", figure 2)."""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from prunelab.models.default_cfg import default_cfg


class LeNet5(nn.Module):
    """LeNet-5 in its present form: ReLU, max-pooling, full connections between maps, softmax output.

    The paper pads 28x28 digits to 32x32; here the first convolution pads. C5 is a 5x5 convolution, as in the paper. For
    larger images its map is larger, and the map is averaged: every size of at least 28x28 works with the same 61,706
    parameters (1 channel, 10 classes). Smaller images are smaller than the kernel of C5.

    Input (N, in_chans, H, W) with H, W >= 28, output (N, num_classes).
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.conv1 = nn.Conv2d(in_chans, 6, 5, padding=2)
        self.relu1 = nn.ReLU(inplace=True)
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU(inplace=True)
        self.pool2 = nn.MaxPool2d(2)
        self.conv3 = nn.Conv2d(16, 120, 5)
        self.relu3 = nn.ReLU(inplace=True)
        self.pool3 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        x = self.relu4(self.fc1(self.flatten(x)))
        return self.fc2(x)


default_cfgs = generate_default_cfgs(
    {"lenet5": default_cfg(first_conv="conv1", classifier="fc2", input_size=(1, 28, 28))}
)


@register_model
def lenet5(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """LeNet-5 for images of 28x28 or more."""
    return build_model_with_cfg(LeNet5, "lenet5", pretrained, **arguments)
