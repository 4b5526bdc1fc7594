"""Networks of torchvision: classification, segmentation, detection, video, optical flow."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import detection, optical_flow, segmentation, video

from listed.entry import Entry, images

CLASSIFIERS = {
    "alexnet": (128, 160), "convnext_tiny": (64, 96), "densenet121": (64, 96), "efficientnet_b0": (64, 96),
    "efficientnet_v2_s": (64, 96), "googlenet": (96, 128), "inception_v3": (128, 160), "maxvit_t": (224, None),
    "mnasnet0_5": (64, 96), "mobilenet_v2": (64, 96), "mobilenet_v3_small": (64, 96),
    "mobilenet_v3_large": (64, 96), "regnet_x_400mf": (64, 96), "regnet_y_400mf": (64, 96), "resnet18": (64, 96),
    "resnet50": (64, 96), "resnext50_32x4d": (64, 96), "wide_resnet50_2": (64, 96), "shufflenet_v2_x0_5": (64, 96),
    "squeezenet1_0": (64, 96), "squeezenet1_1": (64, 96), "swin_t": (64, 96), "swin_v2_t": (64, 96),
    "vgg11": (64, 96), "vgg11_bn": (64, 96), "vit_b_32": (224, None),
}  # fmt: skip
SEGMENTATION = (
    "fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large",
)  # fmt: skip
VIDEO = {
    "r3d_18": (8, 32), "mc3_18": (8, 32), "r2plus1d_18": (8, 32), "s3d": (16, 224), "mvit_v1_b": (16, 224),
    "mvit_v2_s": (16, 224), "swin3d_t": (4, 64),
}  # fmt: skip
REGIONS = {"rpn_pre_nms_top_n_test": 50, "rpn_post_nms_top_n_test": 10, "box_score_thresh": 0.0}
DENSE = {"topk_candidates": 50, "score_thresh": 0.0}
SCALED = {"min_size": 128, "max_size": 160}
DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_resnet50_fpn": SCALED | REGIONS,
    "fasterrcnn_resnet50_fpn_v2": SCALED | REGIONS,
    "fasterrcnn_mobilenet_v3_large_320_fpn": SCALED | REGIONS,
    "maskrcnn_resnet50_fpn": SCALED | REGIONS,
    "keypointrcnn_resnet50_fpn": SCALED | REGIONS | {"num_classes": 2},
    "retinanet_resnet50_fpn": SCALED | DENSE,
    "retinanet_resnet50_fpn_v2": SCALED | DENSE,
    "fcos_resnet50_fpn": SCALED | DENSE,
    "ssd300_vgg16": DENSE,
    "ssdlite320_mobilenet_v3_large": DENSE,
}


def _plain(name: str) -> nn.Module:
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return models.get_model(name, weights=None, num_classes=10, **extra)


def _segmentation(name: str) -> nn.Module:
    auxiliary = {} if name.startswith("lraspp") else {"aux_loss": True}
    return getattr(segmentation, name)(weights=None, weights_backbone=None, num_classes=5, **auxiliary)


def _detector(name: str) -> nn.Module:
    settings = {"num_classes": 5} | DETECTORS[name]
    return getattr(detection, name)(weights=None, weights_backbone=None, **settings)


def _two_images(size: int) -> tuple[list[Tensor]]:
    return ([torch.rand(3, size, size), torch.rand(3, size, size - 16)],)


def _with_targets(inputs: tuple[list[Tensor]]) -> tuple[Any, ...]:
    """One box for each image, with what masks and key points need."""
    target = {
        "boxes": torch.tensor([[10.0, 10.0, 60.0, 60.0]]),
        "labels": torch.tensor([1]),
        "keypoints": torch.tensor([[[30.0, 30.0, 1.0]] * 17]),
    }
    masks = [torch.ones(1, *image.shape[-2:], dtype=torch.uint8) for image in inputs[0]]
    return inputs[0], [target | {"masks": mask} for mask in masks]


def _clip(frames: int) -> Callable[[int], Tensor]:
    return lambda size: torch.randn(2, 3, frames, size, size)


def _two_frames(size: int) -> tuple[Tensor, Tensor]:
    return images(size), images(size)


NETWORKS = [
    *(Entry("torchvision", n, partial(_plain, n), a, b) for n, (a, b) in CLASSIFIERS.items()),
    *(Entry("torchvision", n, partial(_segmentation, n), 64, 96) for n in SEGMENTATION),
    *(
        Entry(
            "torchvision",
            n,
            partial(video.__dict__[n], num_classes=10),
            s,
            None if s == 224 else s + 32,
            _clip(f),
        )
        for n, (f, s) in VIDEO.items()
    ),
    *(
        Entry("torchvision", n, partial(_detector, n), 128, 160, _two_images, _with_targets)
        for n in DETECTORS
    ),
    Entry("torchvision", "raft_small", optical_flow.raft_small, 128, 160, _two_frames),
    Entry("torchvision", "raft_large", optical_flow.raft_large, 128, 160, _two_frames),
]
