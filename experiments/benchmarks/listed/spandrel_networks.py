"""Super-resolution and restoration networks of spandrel."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

from torch import nn

from listed.entry import Entry

NETWORKS_OF: dict[str, tuple[str, int, int, dict[str, Any]]] = {
    "ESRGAN": ("ESRGAN", 24, 32, {"num_filters": 32, "num_blocks": 2, "scale": 2}),
    "Compact": ("Compact", 24, 32, {"num_feat": 32, "num_conv": 4}),
    "SPAN": ("SPAN", 24, 32, {"num_in_ch": 3, "num_out_ch": 3}),
    "RCAN": ("RCAN", 24, 32, {"n_resgroups": 2, "n_resblocks": 2}),
    "OmniSR": ("OmniSR", 32, 64, {"num_feat": 32, "res_num": 1}),
    "SAFMN": ("SAFMN", 32, 64, {"dim": 36, "n_blocks": 2}),
    "PLKSR": ("PLKSR", 24, 32, {"dim": 32, "n_blocks": 2}),
    "SwinIR": (
        "SwinIR",
        32,
        40,
        {"img_size": 32, "embed_dim": 48, "depths": [2, 2], "num_heads": [4, 4], "window_size": 8},
    ),
    "Swin2SR": (
        "Swin2SR",
        32,
        40,
        {"img_size": 32, "embed_dim": 48, "depths": [2, 2], "num_heads": [4, 4], "window_size": 8},
    ),
    "HAT": (
        "HAT",
        32,
        48,
        {"img_size": 32, "embed_dim": 48, "depths": [2], "num_heads": [4], "window_size": 8},
    ),
    "DAT": ("DAT", 32, 64, {"img_size": 32, "embed_dim": 48, "depth": [2], "num_heads": [4]}),
    "NAFNet": ("NAFNet", 32, 64, {"width": 16, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "DRUNet": ("DRUNet", 32, 64, {"in_nc": 3, "nc": [16, 32, 64, 64], "nb": 1}),
    "DnCNN": ("DnCNN", 32, 48, {"in_nc": 3, "out_nc": 3, "nc": 32, "nb": 5}),
    "RealCUGAN": ("UpCunet2x", 48, 64, {}),
    "DITN": ("DITN", 32, 64, {"dim": 24, "ITL_blocks": 1, "SAL_blocks": 1, "UFONE_blocks": 1}),
    "SCUNet": ("SCUNet", 64, 128, {"config": [1, 1, 1, 1, 1, 1, 1], "dim": 64}),
    "Uformer": ("Uformer", 128, None, {"img_size": 128, "embed_dim": 16, "depths": [1] * 9}),
    "MMRealSR": ("MMRealSR", 32, 48, {"num_in_ch": 3, "num_out_ch": 3, "num_feat": 32, "num_block": 1}),
    "RetinexFormer": ("RetinexFormer", 32, 64, {"n_feat": 16}),
    "KBNet": ("KBNet_s", 32, 64, {"width": 16, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]}),
    "MixDehazeNet": ("MixDehazeNet", 64, 128, {"depths": [1, 1, 1, 1, 1]}),
}


def _build(folder: str, name: str, settings: dict[str, Any]) -> nn.Module:
    module = importlib.import_module(f"spandrel.architectures.{folder}")
    return getattr(module, name)(**settings)


NETWORKS = [
    Entry("spandrel", folder, partial(_build, folder, name, settings), size, other)
    for folder, (name, size, other, settings) in NETWORKS_OF.items()
]
