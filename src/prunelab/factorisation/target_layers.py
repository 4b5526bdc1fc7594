"""The layers of a network that can be factorised: sizes of their calls, weights, and responses to images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from prunelab.structure.layer_calls import Use, Watch, parameter_names
from prunelab.structure.low_rank import (
    Factors,
    PlainLayer,
    Size,
    flops_of,
    obstacle,
    params_of,
    shared_layers,
)

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

ROWS = 4096
"""Positions of outputs, over all images, at which the responses of a layer are sampled."""


@dataclass
class TargetLayer:
    """A layer that can be factorised.

    calls: height and width of input and output of each call; (rows, 1) for a linear layer.
    inputs: (rows, inputs * kernel positions) at the sampled positions; empty without images.
    """

    path: str
    module: PlainLayer
    calls: list[tuple[Size, Size]] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)

    @property
    def kernel(self) -> Array:
        """The weight (outputs, inputs, height, width), float64."""
        weight = self.module.weight.detach().double().cpu().numpy()
        return weight if weight.ndim == 4 else weight[:, :, None, None]

    def sampled(self) -> Array | None:
        """The sampled inputs, (rows, inputs * kernel positions); None without images."""
        return torch.cat(self.inputs).double().cpu().numpy() if self.inputs else None

    def cost(self, resource: str, factors: Factors | None) -> int:
        """FLOPs of all calls for one image, or parameters, of the sequence or (None) of the layer itself."""
        if resource == "params":
            return params_of(self.module, factors)
        return sum(flops_of(self.module, factors, before, after) for before, after in self.calls)

    def shrinks(self, factors: Factors) -> bool:
        """Whether the sequence has fewer FLOPs and fewer parameters than the layer."""
        return all(self.cost(each, factors) < self.cost(each, None) for each in ("flops", "params"))


def target_layers(model: nn.Module, example: Any, exclude: Collection[str]) -> dict[str, TargetLayer]:
    """The layers that a forward pass of ``example`` runs and that can be factorised, by their paths.

    The reason why a convolution or linear layer is not among them is logged.
    """
    shared = shared_layers(model)
    found: dict[str, TargetLayer] = {}
    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if not isinstance(module, nn.modules.conv._ConvNd | nn.Linear) or path in exclude:
                continue
            reason = "it shares its weight" if path in shared else obstacle(module)
            if reason is not None or not path:
                log.info("Low rank: %s is left alone: %s.", path or "the network", reason or "it has no path")
                continue
            assert isinstance(module, nn.Conv2d | nn.Linear)
            found[path] = TargetLayer(path, module)
            hooks.callback(module.register_forward_hook(_noting(found[path])).remove)
        _run(model, [example])
    return {path: layer for path, layer in found.items() if layer.calls}


def sample_inputs(
    model: nn.Module, layers: Iterable[TargetLayer], batches: Iterable[Tensor], seed: int
) -> None:
    """Run the images and store inputs of each layer at random positions."""
    by_weight = {f"{layer.path}.weight": layer for layer in layers}
    batches = list(batches)
    images = max(1, sum(len(batch) for batch in batches))
    positions = max(1, ROWS // images)

    def entered(name: str, use: Use) -> None:
        if (layer := by_weight.get(name)) is not None:
            layer.inputs.append(use.inputs(use.chosen(positions, seed))[0].float())

    with Watch(parameter_names(model), entered):
        _run(model, batches)


def _noting(layer: TargetLayer) -> Callable[[nn.Module, Any, Any], None]:
    def note(module: nn.Module, given: Any, out: Tensor) -> None:
        layer.calls.append((_size(module, given[0]), _size(module, out)))

    return note


def _size(module: nn.Module, values: Tensor) -> Size:
    if isinstance(module, nn.Linear):
        return values[:1].numel() // values.shape[-1], 1
    return int(values.shape[-2]), int(values.shape[-1])


@torch.no_grad()
def _run(model: nn.Module, batches: Iterable[Any]) -> None:
    """Forward passes in evaluation mode; each module has its earlier mode afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in batches:
            model(batch)
    finally:
        for module, training in modes:
            module.training = training
