"""Weights drawn afresh, for methods that learn from scratch where others start from a trained network."""

from __future__ import annotations

import torch
from torch import nn


def draw_afresh(network: nn.Module, seed: int) -> None:
    """Draw all weights again: each module's own ``reset_parameters``, then the network's own ``init_weights``.

    Running statistics are those of a new network, too.
    """
    torch.manual_seed(seed)
    for module in network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    init_weights = getattr(network, "init_weights", None)  # of timm's networks
    if callable(init_weights):
        init_weights()
