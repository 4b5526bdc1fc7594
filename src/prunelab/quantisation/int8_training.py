"""Training for int8: the forward pass rounds weights and inputs of layers as int8 will, gradients pass unchanged.

The rounding is that of Jacob et al. (CVPR 2018, arXiv:1712.05877, section 3) with the choices of onnxruntime's static
quantisation (``export.int8``): weights are symmetric with one scale for each output channel, activations unsigned with
one range for each tensor. A scale per output channel makes the rounding independent of a following BatchNorm: what is
rounded before and after it is folded into the weights differs by a factor only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

INPUT = "rounded_input"
LARGEST_INPUT = 255
MOMENTUM = 0.01
"""Of the moving average of smallest and largest inputs during training."""


class RoundedWeight(nn.Module):
    """A parametrisation: w_q = s round(w / s), s = max |w| / q of each output channel, q = 127 (or 64).

    Args:
        reduced: weights of 7 bits, see ``export.int8.weight_range``.

    Example:
        >>> RoundedWeight()(torch.tensor([[127.0, -0.4, 0.6]])).tolist()
        [[127.0, 0.0, 1.0]]
    """

    def __init__(self, reduced: bool = False) -> None:
        super().__init__()
        self.largest = 64 if reduced else 127

    def forward(self, weight: Tensor) -> Tensor:
        scale = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12) / self.largest
        zero = torch.zeros_like(scale, dtype=torch.int32)
        rounded: Tensor = torch.fake_quantize_per_channel_affine(
            weight, scale, zero, 0, -self.largest, self.largest
        )
        return rounded


class RoundedInput(nn.Module):
    """Rounds inputs to 256 values between ``low`` and ``high``; zero is one of them. Inputs outside are clipped.

    In training mode the range follows the batches slowly. In evaluation mode it is fixed.
    """

    low: Tensor
    high: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    @torch.no_grad()
    def widen(self, inputs: Tensor) -> None:
        """Extend the range to all ``inputs``."""
        self.low.copy_(torch.minimum(self.low, inputs.min()))
        self.high.copy_(torch.maximum(self.high, inputs.max()))

    def forward(self, inputs: Tensor) -> Tensor:
        values = inputs.float()
        if self.training:
            with torch.no_grad():
                self.low.lerp_(values.min().clamp(max=0), MOMENTUM)
                self.high.lerp_(values.max().clamp(min=0), MOMENTUM)
        scale = ((self.high - self.low) / LARGEST_INPUT).clamp(min=1e-12)
        zero = torch.round(-self.low / scale).to(torch.int32)
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, LARGEST_INPUT)
        return rounded.to(inputs.dtype)


@torch.no_grad()
def simulate_int8(network: nn.Module, batches: Iterable[Tensor], reduced: bool = False) -> nn.Module:
    """Round the weights and inputs of all convolutions and linear layers of ``network`` in every forward pass.

    Args:
        network: is changed in place; ``end_simulation`` undoes it.
        batches: images (N, C, H, W), from which the first ranges of inputs are measured.
        reduced: weights of 7 bits.

    Example:
        >>> network = simulate_int8(nn.Sequential(nn.Linear(2, 2)).eval(), [torch.rand(8, 2)])
        >>> end_simulation(network)
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    was_training = network.training
    network.eval()
    handles = []
    for layer in _layers(network):
        layer.add_module(INPUT, RoundedInput().to(layer.weight.device))
        handles.append(layer.register_forward_pre_hook(_measure))
    for images in batches:
        network(images.to(next(network.parameters()).device))
    for handle in handles:
        handle.remove()
    for layer in _layers(network):
        layer.register_forward_pre_hook(_round)
        parametrize.register_parametrization(layer, "weight", RoundedWeight(reduced))
    return network.train(was_training)


def end_simulation(network: nn.Module) -> nn.Module:
    """Remove what ``simulate_int8`` added; the trained weights stay as they are, unrounded."""
    for layer in [*_layers(network)]:
        if hasattr(layer, INPUT):
            delattr(layer, INPUT)
            for number in [key for key, hook in layer._forward_pre_hooks.items() if hook is _round]:
                del layer._forward_pre_hooks[number]
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
    return network


def _layers(network: nn.Module) -> Iterator[Any]:
    return (each for each in network.modules() if isinstance(each, nn.Conv2d | nn.Linear))


def _measure(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    layer.get_submodule(INPUT).widen(inputs[0])  # type: ignore[operator]  # a RoundedInput


def _round(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.get_submodule(INPUT)(inputs[0]), *inputs[1:])
