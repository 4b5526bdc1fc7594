"""Weights of two bits or one bit, and inputs of one bit, with training by the straight-through estimator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from prunelab.errors import UserError
from prunelab.export.packing import PACKED, per_output
from prunelab.structure.binarised import (
    Binarisation,
    BinarisedConv2d,
    Straight,
    obstacle_to_binary_inputs,
    sign,
)
from prunelab.structure.low_rank import shared_layers
from prunelab.structure.surgery.substituting import substitute

BITS = {"ternary": 2, "binary": 1, "xnor": 1}
THRESHOLD = 0.7


def ternary(weight: Tensor) -> Tensor:
    """Each filter W as a T with T in {-1, 0, +1} (Li, Zhang and Liu 2016, arXiv:1605.04711, equations 5 and 6).

    T = sign(W) where |W| > d, else 0; d = 0.7 mean |W|; a = mean of |W| where |W| > d.

    Args:
        weight: (outputs, ...).

    Example:
        >>> ternary(torch.tensor([[0.9, -0.2, 0.1, -0.8]]))
        tensor([[ 0.8500,  0.0000,  0.0000, -0.8500]])
    """
    sizes = weight.flatten(1).abs()
    large = sizes > THRESHOLD * sizes.mean(1, keepdim=True)
    scale = (sizes * large).sum(1) / large.sum(1).clamp(min=1)
    values = per_output(scale, weight.ndim) * weight.sign()
    return torch.where(large.reshape(weight.shape), values, 0.0)


def binary(weight: Tensor) -> Tensor:
    """Each filter W as a sign(W), a = mean |W| (Rastegari et al. 2016, arXiv:1603.05279, equation 6).

    Without the scale these are the weights of BinaryConnect (Courbariaux et al. 2015, arXiv:1511.00363, equation 1).

    Args:
        weight: (outputs, ...).

    Example:
        >>> binary(torch.tensor([[0.9, -0.2, 0.1, -0.8]]))
        tensor([[ 0.5000, -0.5000,  0.5000, -0.5000]])
    """
    scale = weight.flatten(1).abs().mean(1)
    return per_output(scale, weight.ndim) * sign(weight)


class Rounded(nn.Module):
    """A parametrisation with rounded weights, whose gradient is that of the unrounded ones.

    For one bit the gradient is zero where |W| > 1, as in both papers; for ternary weights it always passes.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.rule = ternary if name == "ternary" else binary
        self.limit = float("inf") if name == "ternary" else 1.0

    def forward(self, weight: Tensor) -> Tensor:
        rounded: Tensor = Straight.apply(weight, self.rule(weight.detach()), self.limit)
        return rounded


def begin_rounding(
    network: nn.Module,
    name: str,
    example: Tensor,
    batches: Iterable[Tensor] = (),
    exclude: Sequence[str] = (),
) -> nn.Module:
    """Round the weights of all layers except the first and the last one in every forward pass, in place.

    Args:
        name: "ternary", "binary", or "xnor": convolutions with inputs of one bit too; linear layers are left alone.
        example: (1, C, H, W), for the order of the layers.
        batches: for "xnor": images (N, C, H, W), from which the statistics before the signs are measured.
        exclude: paths of further layers that stay as they are.

    Raises:
        UserError: no layer is left, or a path of ``exclude`` is not one of a layer.
    """
    paths = rounded_layers(network, name, example, exclude)
    if name == "xnor":
        substitute(network, Binarisation(tuple(paths)))
        _measure_inputs(network, batches)
    for path in paths:
        parametrize.register_parametrization(network.get_submodule(path), "weight", Rounded(name))
    packed = {f"{path}.weight": BITS[name] for path in paths}
    setattr(network, PACKED, packed)
    return network


def end_rounding(network: nn.Module) -> nn.Module:
    """Replace the trained weights by their rounded values, in place. ``prunelab.save`` stores them packed."""
    for name in getattr(network, PACKED):
        layer = network.get_submodule(name.removesuffix(".weight"))
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return network


def rounded_layers(network: nn.Module, name: str, example: Tensor, exclude: Sequence[str] = ()) -> list[str]:
    """The paths of the layers that ``begin_rounding`` rounds, in the order in which they are called.

    Raises:
        UserError: see ``begin_rounding``.
    """
    called = _called(network, example)
    if unknown := [path for path in exclude if path not in called]:
        raise UserError(
            f"precision.exclude: {unknown[0]!r} is not a convolution or linear layer of this network."
        )
    shared = shared_layers(network)
    kept = {*exclude, *called[:1], *called[-1:]}
    paths = [
        path
        for path in called
        if path not in kept
        and path not in shared
        and (name != "xnor" or obstacle_to_binary_inputs(network.get_submodule(path)) is None)
    ]
    if not paths:
        raise UserError(
            f"precision={name}: the network has no layer between its first and its last one that can be rounded."
        )
    return paths


@torch.no_grad()
def _called(network: nn.Module, example: Tensor) -> list[str]:
    """The paths of convolutions and linear layers in the order of their first calls."""
    order: list[str] = []
    handles = []
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):

            def note(*_: Any, path: str = path) -> None:
                order.append(path)

            handles.append(layer.register_forward_pre_hook(note))
    was_training = network.training
    network.eval()(example.to(next(network.parameters()).device))
    network.train(was_training)
    for handle in handles:
        handle.remove()
    return list(dict.fromkeys(order))


@torch.no_grad()
def _measure_inputs(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """The statistics of the inputs of binarised layers, as the mean over ``batches``."""
    norms = [each.norm for each in network.modules() if isinstance(each, BinarisedConv2d)]
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.eval()
    for norm in norms:
        norm.momentum = None  # the mean over all batches
        norm.train()
    for images in batches:
        network(images.to(next(network.parameters()).device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.train(was_training)
