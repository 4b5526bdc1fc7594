"""New random weights, for methods that learn from scratch."""

from __future__ import annotations

import torch
from torch import nn


def draw_afresh(network: nn.Module, seed: int) -> None:
    """Reset all weights: call ``reset_parameters`` of each module, then ``init_weights`` of the network.

    Running statistics are reset as well.
    """
    torch.manual_seed(seed)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    init_weights = getattr(network, "init_weights", None)  # networks of timm
    if callable(init_weights):
        init_weights()
