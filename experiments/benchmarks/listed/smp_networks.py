"""Networks of segmentation-models-pytorch."""

from __future__ import annotations

from functools import partial

import segmentation_models_pytorch as smp

from listed.entry import Entry

DECODERS = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "UPerNet",
    "Segformer",
)  # fmt: skip
ENCODERS = (
    "mobilenet_v2", "efficientnet-b0", "mit_b0", "densenet121", "vgg11_bn", "mobileone_s0", "dpn68",
    "se_resnet50", "xception", "timm-regnetx_002", "tu-convnext_atto",
)  # fmt: skip


def _entry(decoder: str, encoder: str, size: int = 64, other: int | None = 96) -> Entry:
    build = partial(getattr(smp, decoder), encoder, encoder_weights=None, classes=5)
    return Entry("segmentation_models_pytorch", f"{decoder}, {encoder}", build, size, other)


NETWORKS = [
    *(_entry(decoder, "resnet18") for decoder in DECODERS),
    _entry("PAN", "resnet18", 128, 192),
    *(_entry("Unet", encoder) for encoder in ENCODERS),
    _entry("FPN", "mit_b0"),
    _entry("DPT", "tu-vit_tiny_patch16_224.augreg_in21k", 224, None),
]
