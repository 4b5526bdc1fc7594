"""The tensor in which a constant can be added to each output of a layer: its bias, or the normalisation after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from prunelab.methods.context import PruningContext
from prunelab.methods.reconstruction.least_squares import Indices, Matrix
from prunelab.methods.reconstruction.readers import Reader
from prunelab.methods.untouched import run_example


@dataclass(frozen=True)
class Shift:
    """Adding c to the outputs of a layer means adding ``sign`` * c to ``tensor`` (outputs,)."""

    tensor: Tensor
    sign: float

    @torch.no_grad()
    def add(self, outputs: Indices | None, values: Matrix) -> None:
        """Add one value to each of these outputs (None: to all)."""
        rows = slice(None) if outputs is None else torch.from_numpy(outputs).to(self.tensor.device)
        self.tensor[rows] += self.sign * torch.from_numpy(values).to(self.tensor)


def find_shifts(context: PruningContext, readers: Mapping[str, Reader]) -> dict[str, Shift]:
    """The shift of each reader, by the name of its weight; readers without a place for one are left out.

    The place is its bias or, with the opposite sign, the running mean of the batch normalisation that reads its
    outputs, which is found in one pass of the example input.
    """
    layers = {name: context.model.get_submodule(reader.name) for name, reader in readers.items()}
    norms = norms_behind(context, {name: layer for name, layer in layers.items() if layer.bias is None})
    biases = {name: layer.bias for name, layer in layers.items() if isinstance(layer.bias, Tensor)}
    means = {name: norm.running_mean for name, norm in norms.items() if isinstance(norm.running_mean, Tensor)}
    return {name: Shift(bias, 1.0) for name, bias in biases.items()} | {
        name: Shift(mean, -1.0) for name, mean in means.items()
    }


def norms_behind(context: PruningContext, layers: Mapping[str, nn.Module]) -> dict[str, _BatchNorm]:
    """For each layer the batch normalisation that is called with its unchanged outputs."""
    outputs: dict[int, tuple[str, Tensor]] = {}  # keeps the tensor alive, so that its id is not reused
    found: dict[str, _BatchNorm] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, out: Tensor) -> None:
            outputs[id(out)] = name, out

        return hook

    def find(norm: nn.Module, given: tuple[Any, ...]) -> None:
        if given and id(given[0]) in outputs and isinstance(norm, _BatchNorm):
            found[outputs[id(given[0])][0]] = norm

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(note(name)).remove)
        for module in context.model.modules():
            if isinstance(module, _BatchNorm):
                hooks.callback(module.register_forward_pre_hook(find).remove)
        run_example(context)
    return found
