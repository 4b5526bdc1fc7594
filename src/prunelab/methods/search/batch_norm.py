"""Adaptive batch normalisation: running statistics of a network that was just pruned."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@torch.no_grad()
def adapt_batch_norm(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Measure the running statistics of all batch normalisations of ``network`` again, on batches (N, C, H, W).

    They become the mean over batches of each batch's mean and variance (``momentum=None``), independent of their
    previous values and of the order of the batches. Weights do not change; layers other than normalisation are in
    evaluation mode (no dropout). The network ends in evaluation mode.
    """
    network.eval()
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        for batch in images if norms else ():
            network(batch)
    finally:
        network.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
