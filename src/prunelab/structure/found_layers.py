"""The convolutions and linear layers of a network, each with the normalisation and the addition that follow it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from prunelab.structure.layer_calls import Use, Watch, named_arguments, parameter_names


@dataclass(frozen=True)
class Norm:
    """The batch normalisation of the outputs of a layer (names of parameters and buffers)."""

    mean: str
    variance: str
    scale: str | None
    shift: str | None
    eps: float


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer whose weight is used by exactly one call.

    weight, bias: names of its parameters (bias None: it has none).
    shape: of the weight, (outputs, inputs of each group, kernel positions).
    groups: of a convolution; 1 for a linear layer.
    norm: the batch normalisation of its output, if there is one.
    closes_sum: its normalised output is an operand of an addition whose other operand is computed before it.
    """

    weight: str
    bias: str | None
    shape: tuple[int, int, int]
    groups: int
    norm: Norm | None = None
    closes_sum: bool = False

    @property
    def features(self) -> int:
        """Number of inputs of each output."""
        return self.shape[1] * self.shape[2]

    @property
    def takes_constant(self) -> bool:
        """Whether a constant can be added to each output, by changing the bias or the running mean of the norm."""
        return self.bias is not None or self.norm is not None


def find_layers(model: nn.Module, images: Tensor) -> dict[str, Layer]:
    """The layers that a forward pass of ``images`` calls, in order, by the names of their weights.

    Not included are weights that several calls share, and layers whose weight or bias is computed (standardised).
    """
    names = parameter_names(model)
    buffers = {id(buffer): name for name, buffer in model.named_buffers()}
    found: dict[str, Layer] = {}
    calls: Counter[str] = Counter()

    def entered(name: str, use: Use) -> None:
        calls[name] += 1
        weight = model.get_parameter(name)
        taps = weight[0, 0].numel()
        bias = None if use.bias is None else names.get(id(use.bias))
        if use.bias is not None and bias is None:
            calls[name] += 1  # a computed bias cannot be written
        shape = (weight.shape[0], weight.shape[1], taps)
        found[name] = Layer(name, bias, shape, use.groups)

    def normalised(name: str, func: Any, args: Any, kwargs: Any) -> None:
        norm = _norm_of(func, args, kwargs, names, buffers)
        if norm is not None:
            found[name] = replace(found[name], norm=norm)

    def added(makers: tuple[str | None, ...], operands: tuple[Tensor, ...]) -> None:
        order = list(found)
        last = max((name for name in makers if name is not None), key=order.index)
        if operands[0].shape == operands[1].shape:
            found[last] = replace(found[last], closes_sum=True)

    with torch.no_grad(), Watch(names, entered, None, normalised, added):
        model(images)
    return {name: layer for name, layer in found.items() if calls[name] == 1}


def _norm_of(
    func: Any, args: Any, kwargs: Any, names: Mapping[int, str], buffers: Mapping[int, str]
) -> Norm | None:
    if func is functional.batch_norm:
        order = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
    else:
        order = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    given = named_arguments(order, args, kwargs)
    mean, variance = (buffers.get(id(given.get(name))) for name in ("running_mean", "running_var"))
    if mean is None or variance is None or given.get("training"):
        return None
    scale, shift = (names.get(id(given.get(name))) for name in ("weight", "bias"))
    return Norm(mean, variance, scale, shift, float(given.get("eps", 1e-5)))
