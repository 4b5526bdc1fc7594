"""Convolutions with inputs of one bit: which layers of a network have them, as plain data, and the layer itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize


class Straight(torch.autograd.Function):
    """Rounded values whose gradient passes to the unrounded ones (the straight-through estimator)."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rounded: Tensor, limit: float) -> Tensor:
        """``rounded``; the gradient is zero where |values| > limit."""
        ctx.save_for_backward(values.abs() <= limit)
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        return gradients[0] * passes, None, None


def sign(values: Tensor) -> Tensor:
    """+1 for values of at least 0, else -1."""
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


class BinarisedConv2d(nn.Conv2d):
    """A convolution of XNOR-Net (Rastegari et al., ECCV 2016, arXiv:1603.05279, equation 11).

    y = (sign(N(x)) * w) K + b, where N is the batch normalisation that the paper puts before the signs (section 3.2), w
    are the weights a sign(W), and K the mean of |N(x)| over the channels (of a group) and the window of the kernel. The
    gradient of the signs is that of the clipped identity, 1 where |N(x)| <= 1.

    Args:
        layer: the convolution whose shape and weights it has; its padding mode is "zeros".

    Example:
        >>> BinarisedConv2d(nn.Conv2d(4, 8, 3, padding=1)).eval()(torch.randn(2, 4, 6, 6)).shape
        torch.Size([2, 8, 6, 6])
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]  # two numbers
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            device=layer.weight.device,
            dtype=layer.weight.dtype,
        )
        self.weight, self.bias = layer.weight, layer.bias
        self.norm = nn.BatchNorm2d(layer.in_channels, device=layer.weight.device, dtype=layer.weight.dtype)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, outputs, H', W')."""
        values = self.norm(input)
        signs = Straight.apply(values, sign(values), 1.0) if self.training else sign(values)
        groups = self.groups
        sizes = values.abs().unflatten(1, (groups, -1)).mean(2)  # (N, groups, H, W)
        window = sizes.new_full(
            (groups, 1, *self.kernel_size), 1 / (self.kernel_size[0] * self.kernel_size[1])
        )
        settings: dict[str, Any] = {
            "stride": self.stride, "padding": self.padding, "dilation": self.dilation, "groups": groups,
        }  # fmt: skip
        scale = functional.conv2d(sizes, window, **settings)
        scale = scale.repeat_interleave(self.out_channels // groups, 1)
        out = functional.conv2d(signs, self.weight, **settings) * scale
        return out if self.bias is None else out + self.bias[:, None, None]


@dataclass(frozen=True)
class Binarisation:
    """The convolutions that become a ``BinarisedConv2d``, by their paths. A step of a ``PlanSteps``."""

    layers: tuple[str, ...]

    @staticmethod
    def from_list(raw: Any) -> Binarisation:
        """Parse a list of paths. Raises ValueError for anything else."""
        if not isinstance(raw, list) or not raw or any(not isinstance(each, str) for each in raw):
            raise ValueError("a binarisation names no layer")
        if len(set(raw)) < len(raw):
            raise ValueError("a binarisation names a layer twice")
        return Binarisation(tuple(raw))


def obstacle_to_binary_inputs(layer: nn.Module) -> str | None:
    """Why a layer cannot become a ``BinarisedConv2d``, in words; None if it can."""
    if type(layer) is not nn.Conv2d:
        return f"it is a {type(layer).__name__}"
    if layer.padding_mode != "zeros":
        return f"its padding mode is {layer.padding_mode}"
    if parametrize.is_parametrized(layer) or layer._forward_hooks or layer._forward_pre_hooks:
        return "its weight is computed, or hooks read its input"
    return None
