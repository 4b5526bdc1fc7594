"""Networks of ultralytics (AGPL-3.0), if the user has installed it; it is no dependency of prunelab."""

from __future__ import annotations

from functools import partial

from torch import nn
from ultralytics.nn import tasks

from listed.entry import Entry

DETECTORS = (
    "yolov3-tiny", "yolov5n", "yolov6n", "yolov8n", "yolov8n-ghost", "yolov9t", "yolov10n", "yolo11n", "yolo12n",
    "yolo26n", "rtdetr-resnet50",
)  # fmt: skip
OTHERS = {
    "yolov8n-seg": "SegmentationModel", "yolov8n-pose": "PoseModel", "yolov8n-cls": "ClassificationModel",
    "yolov8n-obb": "OBBModel", "yolo11n-seg": "SegmentationModel", "yolo11n-cls": "ClassificationModel",
}  # fmt: skip


def _build(name: str, kind: str) -> nn.Module:
    return getattr(tasks, kind)(f"{name}.yaml", verbose=False)


NETWORKS = [
    *(
        Entry("ultralytics", name, partial(_build, name, OTHERS.get(name, "DetectionModel")), 64, 96)
        for name in (*DETECTORS, *OTHERS)
    ),
]
