"""Networks of MONAI: images of two and three dimensions, mostly one input channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from monai.networks import nets
from torch import Tensor, nn

from listed.entry import Entry

LEVELS = {"channels": (8, 16, 32, 64), "strides": (2, 2, 2)}
KERNELS = {"kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2]}


def _volumes(dims: int, channels: int = 1) -> Callable[[int], Tensor]:
    return lambda size: torch.randn(2, channels, *[size] * dims)


def _without_sampling(**settings: Any) -> nn.Module:
    """The autoencoder draws random numbers in evaluation mode, and without its blocks it may draw other ones."""
    network = nets.AutoencoderKL(**settings)
    network.sampling = torch.add
    return network


def _entry(
    name: str, build: Callable[..., nn.Module], dims: int, size: int, other: int | None, **settings: Any
) -> Entry:
    channels = settings.pop("image_channels", 1)
    return Entry("monai", name, partial(build, **settings), size, other, _volumes(dims, channels))


NETWORKS = [
    _entry("UNet", nets.UNet, 2, 32, 64, spatial_dims=2, in_channels=1, out_channels=3, num_res_units=2, **LEVELS),
    _entry("UNet 3D", nets.UNet, 3, 16, 32, spatial_dims=3, in_channels=1, out_channels=3, **LEVELS),
    _entry("BasicUNet", nets.BasicUNet, 3, 32, 48, spatial_dims=3, out_channels=3, features=(8, 8, 16, 32, 64, 8)),
    _entry("BasicUNetPlusPlus", nets.BasicUNetPlusPlus, 2, 32, 64, spatial_dims=2, out_channels=3),
    _entry("AttentionUnet", nets.AttentionUnet, 2, 32, 64, spatial_dims=2, in_channels=1, out_channels=3, **LEVELS),
    _entry("DynUNet, deep supervision", nets.DynUNet, 3, 16, 32, spatial_dims=3, in_channels=1, out_channels=3,
           filters=[8, 16, 32], deep_supervision=True, deep_supr_num=1, res_block=True, **KERNELS),
    _entry("SegResNet", nets.SegResNet, 3, 16, 32, spatial_dims=3, init_filters=8),
    _entry("SegResNetDS", nets.SegResNetDS, 3, 32, 64, spatial_dims=3, init_filters=8, dsdepth=2),
    _entry("SegResNetVAE", nets.SegResNetVAE, 3, 16, None, input_image_size=(16, 16, 16), init_filters=8),
    _entry("VNet", nets.VNet, 3, 32, 48, spatial_dims=3, out_channels=3),
    _entry("UNETR", nets.UNETR, 3, 32, None, in_channels=1, out_channels=3, img_size=32, hidden_size=96, mlp_dim=192,
           num_heads=4),
    _entry("SwinUNETR", nets.SwinUNETR, 2, 64, 96, in_channels=1, out_channels=3, feature_size=12, spatial_dims=2),
    _entry("HighResNet", nets.HighResNet, 2, 32, 48, spatial_dims=2, out_channels=3),
    _entry("DenseNet121", nets.DenseNet121, 2, 64, 96, spatial_dims=2, in_channels=1, out_channels=3),
    _entry("SEResNet50", nets.SEResNet50, 2, 64, 96, spatial_dims=2, in_channels=1, num_classes=3),
    _entry("SENet154", nets.SENet154, 2, 64, 96, spatial_dims=2, in_channels=1, num_classes=3),
    _entry("ResNet 3D", nets.resnet10, 3, 32, 48, spatial_dims=3, n_input_channels=1, num_classes=3),
    _entry("EfficientNetBN", nets.EfficientNetBN, 2, 64, 96, model_name="efficientnet-b0", pretrained=False,
           spatial_dims=2, in_channels=1, num_classes=3),
    _entry("AutoEncoder", nets.AutoEncoder, 2, 32, 64, spatial_dims=2, in_channels=1, out_channels=1,
           channels=(8, 16, 32), strides=(2, 2, 2)),
    _entry("VarAutoEncoder", nets.VarAutoEncoder, 2, 32, None, spatial_dims=2, in_shape=(1, 32, 32), out_channels=1,
           latent_size=8, channels=(8, 16, 32), strides=(2, 2, 2)),
    _entry("Regressor", nets.Regressor, 2, 32, None, in_shape=(1, 32, 32), out_shape=(1,), channels=(8, 16, 32),
           strides=(2, 2, 2)),
    _entry("Discriminator", nets.Discriminator, 2, 32, None, in_shape=(1, 32, 32), channels=(8, 16, 32),
           strides=(2, 2, 2)),
    _entry("ViT", nets.ViT, 2, 32, None, in_channels=1, img_size=32, patch_size=8, hidden_size=96, mlp_dim=192,
           num_layers=3, num_heads=4, classification=True, num_classes=3, spatial_dims=2),
    _entry("ViTAutoEnc", nets.ViTAutoEnc, 2, 32, None, in_channels=1, img_size=32, patch_size=4, hidden_size=96,
           mlp_dim=192, num_layers=3, num_heads=4, spatial_dims=2),
    _entry("FlexibleUNet", nets.FlexibleUNet, 2, 64, 96, in_channels=1, out_channels=3, backbone="efficientnet-b0",
           spatial_dims=2),
    _entry("LocalNet", nets.LocalNet, 2, 32, 64, spatial_dims=2, in_channels=1, out_channels=2,
           num_channel_initial=8, extract_levels=[0, 1, 2]),
    _entry("RegUNet", nets.RegUNet, 2, 32, 64, spatial_dims=2, in_channels=1, num_channel_initial=8, depth=2,
           out_channels=2),
    _entry("Quicknat", nets.Quicknat, 2, 64, 96, num_channels=1, num_filters=16),
    _entry("MedNeXt", nets.MedNeXt, 2, 64, 96, spatial_dims=2, in_channels=1, out_channels=3, init_filters=8),
    _entry("PatchDiscriminator", nets.PatchDiscriminator, 2, 64, 96, spatial_dims=2, channels=8, in_channels=1),
    _entry("AutoencoderKL", _without_sampling, 2, 32, 48, spatial_dims=2, channels=(16, 32), num_res_blocks=(1, 1),
           attention_levels=(False, True), norm_num_groups=8, latent_channels=3),
    _entry("VQVAE", nets.VQVAE, 2, 32, 64, spatial_dims=2, in_channels=1, out_channels=1, channels=(16, 16),
           num_res_channels=(16, 16), num_res_layers=1, num_embeddings=32, embedding_dim=8,
           downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)), upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0))),
]  # fmt: skip
