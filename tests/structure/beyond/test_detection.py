"""Detectors: lists of images in, boxes out, and non-maximum suppression between: sizes depend on the data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import detection
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large

import prunelab

pytestmark = pytest.mark.slow

FRESH: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 5}
SMALL: dict[str, Any] = {
    "min_size": 96,
    "max_size": 96,
    "rpn_pre_nms_top_n_test": 50,
    "rpn_post_nms_top_n_test": 20,
}
MAKERS: dict[str, Callable[[], nn.Module]] = {
    "ssdlite320_mobilenet_v3_large": lambda: detection.ssdlite320_mobilenet_v3_large(**FRESH),
    "fasterrcnn_mobilenet_v3_large_320_fpn": lambda: detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        **FRESH, **SMALL
    ),
}


class BeforePostProcessing(nn.Module):
    """The inputs of a detector's post-processing."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.dense = detector.rpn.head if hasattr(detector, "rpn") else detector.head
        self.regions = detector.roi_heads if hasattr(detector, "roi_heads") else None

    def forward(self, images: Tensor) -> Any:
        features = list(self.backbone(images).values())
        if self.regions is None:
            return self.dense(features)
        pooled = F.adaptive_avg_pool2d(features[0], 7)
        return self.dense(features), self.regions.box_predictor(self.regions.box_head(pooled))


def two_images() -> tuple[list[Tensor]]:
    return ([torch.rand(3, 90, 96), torch.rand(3, 96, 80)],)


@pytest.mark.parametrize("name", MAKERS)
def test_a_whole_detector(thin: Callable[..., Any], lively: Callable[..., nn.Module], name: str) -> None:
    detector = MAKERS[name]().eval()
    lively(BeforePostProcessing(detector), torch.randn(4, 3, 96, 96))
    images = two_images()
    thinned = thin(detector, images)
    fixed = {weight.removesuffix(".weight") for group in thinned.graph.frozen for weight in _producers(group)}
    assert all("head" in layer for layer in fixed)  # what makes scores and boxes
    assert thinned.graph.cost.params(thinned.plan) < 0.6 * thinned.graph.cost.params()
    with torch.no_grad():
        found = thinned.model(*two_images())
    assert [set(each) for each in found] == [{"boxes", "labels", "scores"}] * 2
    for batch in (1, 3):  # other images, another number of boxes
        assert len(thinned.model([torch.rand(3, 70, 70)] * batch)) == batch


def _producers(group: prunelab.ChannelGroup) -> list[str]:
    return [found.parameter for found in group.producers]


@pytest.mark.parametrize("name", MAKERS)
def test_before_post_processing_a_detector_is_exact(exactly: Callable[..., Any], name: str) -> None:
    thinned = exactly(BeforePostProcessing(MAKERS[name]()), torch.randn(2, 3, 64, 64))
    assert not thinned.frozen


def test_the_analysis_of_a_detector_leaves_it_untouched() -> None:
    """Anchors are cached by their module: those of the meta device must not remain."""
    detector = MAKERS["fasterrcnn_mobilenet_v3_large_320_fpn"]()
    prunelab.analyze(detector, two_images())
    anchors = detector.rpn.anchor_generator.cell_anchors
    assert all(each.device.type == "cpu" for each in anchors)
    assert detector.training
    with torch.no_grad():
        assert len(detector.eval()(*two_images())) == 2


class KeepsTheBest(nn.Module):
    """Places chosen by their content, and a branch chosen by a value: strong dependence on data."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 16, 3, padding=1)
        self.score = nn.Conv2d(16, 1, 1)
        self.deep = nn.Linear(16, 12)
        self.other = nn.Linear(16, 12)
        self.last = nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.features(x))
        scores = self.score(x).flatten()
        places = x.permute(0, 2, 3, 1).flatten(0, 2)
        best = places[scores > scores.median()]
        first = torch.nonzero(scores > scores.mean()).flatten()[:7]
        layer = self.deep if scores.max().item() > 0 else self.other
        return self.last(F.relu(layer(torch.cat([best, places[first]]))))


def test_the_trial_repeats_the_decisions_of_the_full_run(exactly: Callable[..., Any]) -> None:
    thinned = exactly(KeepsTheBest(), torch.randn(1, 3, 9, 9))
    assert {group.name for group in thinned.graph.groups} >= {"features"}
    assert len(thinned.graph.groups) == 2
    assert not thinned.frozen


def test_a_network_that_needs_values_runs_once_with_them() -> None:
    model, ran = KeepsTheBest(), []
    model.last.register_forward_pre_hook(lambda module, args: ran.append(args[0].device.type))
    prunelab.analyze(model, torch.randn(1, 3, 9, 9))
    assert ran.count("cpu") == 1 and ran.count("meta") > 1


class Cached(nn.Module):
    """Computes anchors at the first call, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.anchors: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.last(F.relu(self.features(x)))
        if not self.anchors:
            self.anchors = [torch.ones(y.shape[2:], device=y.device)]
        return y + self.anchors[0]


def test_tensors_of_an_earlier_call_are_on_the_meta_device_during_the_analysis() -> None:
    model, x, devices = Cached(), torch.randn(1, 3, 9, 9), []
    model(x)
    anchors = model.anchors[0]
    model.register_forward_pre_hook(lambda module, args: devices.append(args[0].device.type))
    graph = prunelab.analyze(model, x)
    assert [group.name for group in graph.groups] == ["features"]
    assert set(devices) == {"meta"}
    assert model.anchors[0] is anchors and anchors.device.type == "cpu"


@pytest.mark.parametrize("auxiliary", [False, True])
def test_segmentation_returns_a_dict(exactly: Callable[..., Any], auxiliary: bool) -> None:
    model = deeplabv3_mobilenet_v3_large(**FRESH, aux_loss=auxiliary)
    thinned = exactly(model, torch.randn(2, 3, 48, 48))
    assert not thinned.frozen
    assert thinned.graph.cost.params(thinned.plan) < 0.6 * thinned.graph.cost.params()
    assert set(thinned.model(torch.randn(1, 3, 48, 48))) == {"out"} | ({"aux"} if auxiliary else set())
