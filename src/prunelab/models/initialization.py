"""Initial weights of the convolutions in the networks of this package."""

from __future__ import annotations

from torch import nn


def initialize_convolutions(model: nn.Module) -> None:
    """Draw weights from N(0, 2 / fan_out) (He et al. 2015, https://arxiv.org/abs/1502.01852, equation 14)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
