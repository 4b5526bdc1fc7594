"""The layer that computes a code, which selects channels, from a group's activations."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional

from prunelab.distributed.ranks import world

LARGE_MAP = 7
"""Maps wider or higher than this are pooled to half their size."""


class CodeLayer(nn.Module):
    """Activations (N, channels, H, W) -> code v (channels,) in (0, 1), one for the whole batch of all ranks.

    Args:
        channels: of the group.
        shape: (H, W) of the maps; maps of another shape are pooled to the same size.
        keep: the target fraction of channels.
        window: number of batches that ``score`` averages over.
        largest: limit on the weights of the convolution; maps are pooled further until it is met.

    Attributes:
        last: the newest code, without gradient; None before the first one.
    """

    recent: Tensor
    count: Tensor
    last: Tensor | None

    def __init__(self, channels: int, shape: tuple[int, int], keep: float, window: int, largest: int) -> None:
        super().__init__()
        self.keep = keep
        self.pooled = _pooled(shape, channels, largest)
        self.convolution = nn.Conv2d(channels, channels, self.pooled)
        nn.init.kaiming_normal_(self.convolution.weight, mode="fan_out", nonlinearity="relu")
        self.register_buffer("recent", torch.zeros(window, channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.last = None

    def forward(self, maps: Tensor, scale: float, strength: float) -> Tensor:
        """v = sigmoid(scale x z), which is also stored; the backward pass adds the gradient of strength (mean v -
        keep)^2."""
        mean = _mean_over_images(maps if maps.dim() == 4 else maps.reshape(*maps.shape[:2], -1, 1))
        z = self.convolution(functional.adaptive_max_pool2d(mean, self.pooled)).flatten()
        code = torch.sigmoid(scale * z)
        with torch.no_grad():
            self.recent[int(self.count) % len(self.recent)] = z
            self.count += 1
            self.last = code.detach()
            gradient = 2 * strength * (code.mean() - self.keep) / code.numel()
        penalised: Tensor = _WithGradient.apply(code, gradient)
        return penalised

    @property
    def seen(self) -> int:
        """Number of batches that the layer has processed."""
        return int(self.count)

    def score(self) -> Tensor:
        """The mean of z (channels,) over the newest batches; 0 before the first."""
        return self.recent[: max(1, self.seen)].mean(dim=0)

    def binary(self) -> Tensor:
        """1 for channels that are kept and 0 for others (channels,); all are kept before the first batch."""
        return (self.score() > 0).to(self.recent.dtype) if self.seen else torch.ones_like(self.recent[0])

    def settled(self, margin: float) -> float:
        """The fraction of the newest codes within ``margin`` of 0 or 1."""
        assert self.last is not None
        return float(((self.last < margin) | (self.last > 1 - margin)).float().mean())


def _pooled(shape: tuple[int, int], channels: int, largest: int) -> tuple[int, int]:
    height, width = (side // 2 if max(shape) > LARGE_MAP else side for side in shape)
    height, width = max(1, height), max(1, width)
    shrink = min(1.0, math.sqrt(largest / (channels**2 * height * width)))
    return max(1, int(height * shrink)), max(1, int(width * shrink))


def _mean_over_images(maps: Tensor) -> Tensor:
    """The mean (1, channels, H, W) over all images of all ranks."""
    if world()[1] == 1:
        return maps.mean(dim=0, keepdim=True)
    images = maps.new_tensor(float(len(maps)))
    dist.all_reduce(images)
    total: Tensor = _SumOverRanks.apply(maps.sum(dim=0, keepdim=True))
    return total / images


class _SumOverRanks(Function):
    """The sum of a tensor over ranks. The loss of each rank depends on the tensors of all ranks, so gradients are
    summed too."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _WithGradient(Function):
    """The identity, whose backward pass adds a given gradient to that of the loss."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (added,) = ctx.saved_tensors
        return gradient + added, None
