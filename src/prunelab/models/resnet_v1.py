"""ResNet-50 with the stride on the first 1x1 convolution of a bottleneck, as in He et al. 2016 and its Caffe models.

In torchvision and timm the stride is on the 3x3 convolution (``resnet50``: 8.178 GFLOPs). ThiNet and the entropy method
were measured on this variant: 7.716 GFLOPs, 7.72 in the survey.
"""

from __future__ import annotations

from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import nn

from prunelab.models.default_cfg import default_cfg

default_cfgs = generate_default_cfgs(
    {
        "resnet50_v1": default_cfg("conv1", "fc", input_size=(3, 224, 224), num_classes=1000, crop_pct=0.875),
    }
)


@register_model
def resnet50_v1(pretrained: bool = False, **arguments: Any) -> nn.Module:
    """timm's ResNet-50, arguments and parameter names included, with the strides moved to ``conv1``."""
    model = build_model_with_cfg(
        ResNet, "resnet50_v1", pretrained, block=Bottleneck, layers=(3, 4, 6, 3), **arguments
    )
    for block in model.modules():
        if isinstance(block, Bottleneck):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return model
