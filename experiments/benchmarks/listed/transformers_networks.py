"""Vision networks of Hugging Face transformers, made from small configurations (nothing is downloaded)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from listed.entry import Entry, images

TINY_VIT: dict[str, Any] = {
    "image_size": 64, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 96,
}  # fmt: skip
TINY_SWIN: dict[str, Any] = {
    "image_size": 64, "patch_size": 2, "embed_dim": 24, "depths": [2, 2, 2], "num_heads": [2, 4, 8], "window_size": 4,
}  # fmt: skip
TINY_RESNET: dict[str, Any] = {
    "embedding_size": 16,
    "hidden_sizes": [32, 64, 128, 256],
    "depths": [1, 1, 2, 1],
}
TINY_DETR: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "num_queries": 10, "num_labels": 4,
    "use_timm_backbone": False, "use_pretrained_backbone": False, "backbone": None,
}  # fmt: skip
TINY_RT_DETR: dict[str, Any] = {
    "d_model": 64, "encoder_hidden_dim": 64, "encoder_in_channels": [64, 128, 256], "encoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_in_channels": [64, 64, 64], "decoder_ffn_dim": 64,
    "decoder_attention_heads": 4, "decoder_layers": 2, "num_queries": 10, "num_labels": 4, "num_denoising": 0,
}  # fmt: skip
PYRAMID: dict[str, Any] = {
    "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 4, 8],
}  # fmt: skip
SEGFORMER: dict[str, Any] = PYRAMID | {"decoder_hidden_size": 64}
TINY_BIT: dict[str, Any] = {
    "num_groups": 8, "embedding_size": 32, "hidden_sizes": [32, 64, 128, 256], "depths": [1, 1, 1, 1],
}  # fmt: skip
TINY_LEVIT: dict[str, Any] = {
    "hidden_sizes": [32, 48, 64],
    "depths": [1, 1, 1],
    "num_attention_heads": [2, 3, 4],
}
TINY_MAE: dict[str, Any] = TINY_VIT | {
    "decoder_hidden_size": 32, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 4,
}  # fmt: skip
TINY_DPT: dict[str, Any] = TINY_VIT | {
    "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3], "neck_hidden_sizes": [16, 24, 32, 48],
    "fusion_hidden_size": 32,
}  # fmt: skip
TINY_SWIN2SR: dict[str, Any] = {
    "image_size": 32, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 2], "window_size": 4,
}  # fmt: skip

# Class of the network without its ending, ending, size, other size, settings of the configuration.
Row = tuple[str, str, int, int | None, dict[str, Any]]
CLASSIFICATION, BASE, DETECTION = "ForImageClassification", "Model", "ForObjectDetection"
SEMANTIC, DEPTH, UNIVERSAL = "ForSemanticSegmentation", "ForDepthEstimation", "ForUniversalSegmentation"
ROWS: tuple[Row, ...] = (
    ("ResNet", CLASSIFICATION, 64, 96, TINY_RESNET),
    ("RegNet", CLASSIFICATION, 64, 96, TINY_RESNET | {"groups_width": 16}),
    ("ConvNext", CLASSIFICATION, 64, 96, {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1]}),
    ("ConvNextV2", CLASSIFICATION, 64, 96, {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1]}),
    ("MobileNetV1", CLASSIFICATION, 64, 96, {"depth_multiplier": 0.5}),
    ("MobileNetV2", CLASSIFICATION, 64, 96, {"depth_multiplier": 0.5}),
    ("MobileNetV2", SEMANTIC, 64, 96, {"depth_multiplier": 0.5}),
    ("MobileViT", CLASSIFICATION, 64, 128, {"hidden_sizes": [48, 64, 80]}),
    ("MobileViTV2", CLASSIFICATION, 64, 128, {"width_multiplier": 0.5}),
    ("EfficientNet", CLASSIFICATION, 64, 96, {}),
    ("Bit", CLASSIFICATION, 64, 96, TINY_BIT),
    ("PoolFormer", CLASSIFICATION, 64, 96, {"hidden_sizes": [24, 48, 96, 192], "depths": [1, 1, 2, 1]}),
    ("Segformer", CLASSIFICATION, 64, 96, SEGFORMER),
    ("Segformer", SEMANTIC, 64, 96, SEGFORMER),
    ("Pvt", CLASSIFICATION, 64, None, {"image_size": 64} | PYRAMID),
    ("PvtV2", CLASSIFICATION, 64, 96, {"image_size": 64} | PYRAMID),
    ("Levit", CLASSIFICATION, 224, None, TINY_LEVIT),
    ("Swin", CLASSIFICATION, 64, None, TINY_SWIN),
    ("Swinv2", CLASSIFICATION, 64, None, TINY_SWIN),
    ("FocalNet", CLASSIFICATION, 64, None, {"image_size": 64, "embed_dim": 24, "depths": [1, 1, 2, 1]}),
    ("SwiftFormer", CLASSIFICATION, 64, None, {"depths": [1, 1, 2, 1], "embed_dims": [24, 32, 48, 96]}),
    ("Cvt", CLASSIFICATION, 64, 96, {"embed_dim": [32, 48, 96]}),
    ("Hiera", CLASSIFICATION, 224, None, {"embed_dim": 24, "depths": [1, 1, 2, 1]}),
    ("TextNet", CLASSIFICATION, 64, 96, {}),
    ("HGNetV2", CLASSIFICATION, 64, 96, {}),
    ("ViT", CLASSIFICATION, 64, None, TINY_VIT),
    ("DeiT", CLASSIFICATION, 64, None, TINY_VIT),
    ("Beit", CLASSIFICATION, 64, None, TINY_VIT | {"use_relative_position_bias": True}),
    ("Data2VecVision", CLASSIFICATION, 64, None, TINY_VIT),
    ("ViTMSN", CLASSIFICATION, 64, None, TINY_VIT),
    ("ViTMAE", "ForPreTraining", 64, None, TINY_MAE),
    ("Dinov2", CLASSIFICATION, 64, 96, TINY_VIT),
    ("Dinov2WithRegisters", CLASSIFICATION, 64, 96, TINY_VIT),
    ("DINOv3ViT", BASE, 64, 96, TINY_VIT),
    ("IJepa", CLASSIFICATION, 64, None, TINY_VIT),
    ("VitDet", BASE, 64, None, TINY_VIT),
    ("CLIPVision", BASE, 64, None, TINY_VIT),
    ("SiglipVision", BASE, 64, None, TINY_VIT),
    ("Yolos", DETECTION, 64, None, TINY_VIT | {"image_size": [64, 64], "num_detection_tokens": 10}),
    ("Detr", DETECTION, 64, 96, TINY_DETR),
    ("ConditionalDetr", DETECTION, 64, 96, TINY_DETR),
    ("DabDetr", DETECTION, 64, 96, TINY_DETR | {"hidden_size": 32}),
    ("DeformableDetr", DETECTION, 64, 96, TINY_DETR | {"num_feature_levels": 3}),
    ("RTDetr", DETECTION, 64, 96, TINY_RT_DETR),
    ("RTDetrV2", DETECTION, 64, 96, TINY_RT_DETR),
    ("DPT", DEPTH, 64, None, TINY_DPT),
    ("DPT", SEMANTIC, 64, None, TINY_DPT),
    ("GLPN", DEPTH, 64, 96, PYRAMID | {"decoder_hidden_size": 32}),
    ("Swin2SR", "ForImageSuperResolution", 32, 40, TINY_SWIN2SR),
)  # fmt: skip


def _build(name: str, ending: str, settings: dict[str, Any]) -> nn.Module:
    settings = dict(settings)
    if ending == DETECTION and name != "Yolos":
        settings["backbone_config"] = _backbone(name)
    config = getattr(transformers, f"{name}Config")(**settings)
    return getattr(transformers, f"{name}{ending}")(config)


def _backbone(detector: str) -> Any:
    if detector.startswith("RTDetr"):
        return transformers.RTDetrResNetConfig(
            embedding_size=16, hidden_sizes=[32, 64, 128, 256], depths=[1, 1, 1, 1],
            out_features=["stage2", "stage3", "stage4"],
        )  # fmt: skip
    levels = ["stage2", "stage3", "stage4"] if detector == "DeformableDetr" else ["stage4"]
    return transformers.ResNetConfig(**TINY_RESNET, out_features=levels)


def _pixels(size: int) -> dict[str, Tensor]:
    return {"pixel_values": images(size)}


def _clip(size: int) -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 4, 3, size, size)}


NETWORKS = [
    *(
        Entry("transformers", f"{name}{ending}", partial(_build, name, ending, settings), size, other, _pixels)
        for name, ending, size, other, settings in ROWS
    ),
    Entry("transformers", "TimesformerForVideoClassification",
          partial(_build, "Timesformer", "ForVideoClassification", TINY_VIT | {"num_frames": 4}), 64, None, _clip),
    Entry("transformers", "VideoMAEForVideoClassification",
          partial(_build, "VideoMAE", "ForVideoClassification", TINY_VIT | {"num_frames": 4}), 64, None, _clip),
]  # fmt: skip
