"""Readers: the layers that read a group's channels, and the inputs of each of their outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from prunelab.structure import ChannelGraph, ChannelGroup, PruningPlan, Slice


@dataclass(frozen=True)
class Reader:
    """A convolution (not grouped) or a linear layer.

    name: its path in the network.
    inputs: number of channels or features that it reads.
    kernel_size: number of weights per input and output: kernel height x width; 1 for a linear layer.
    """

    name: str
    inputs: int
    kernel_size: int

    @property
    def parameter(self) -> str:
        """The name of its weight."""
        return f"{self.name}.weight" if self.name else "weight"

    @property
    def features(self) -> int:
        """The number of values from which one output is computed; value i * kernel_size + t is kernel position t of
        input i."""
        return self.inputs * self.kernel_size


def find_readers(model: nn.Module, graph: ChannelGraph) -> dict[str, Reader]:
    """The readers of all groups, by the name of their weight.

    Grouped and transposed convolutions, functional code, and layers that standardise their weight or have a padding of
    their own are left out.
    """
    modules = {
        f"{path}.weight" if path else "weight": (path, module) for path, module in model.named_modules()
    }
    found = {}
    for group in graph.groups:
        for part in group.having("consumer"):
            path, module = modules.get(part.parameter, ("", None))
            if part.dim == 1 and module is not None and _is_plain(module):
                weight = module._parameters["weight"]
                assert weight is not None
                found[part.parameter] = Reader(path, weight.shape[1], weight[0, 0].numel())
    return found


def read_by(group: ChannelGroup, readers: Mapping[str, Reader]) -> list[Slice]:
    """The slices of readers that read the group: ``index`` (channels, m) are the inputs of its channels."""
    return [part for part in group.having("consumer") if part.parameter in readers and part.dim == 1]


def kept_indices(reader: Reader, plan: PruningPlan, dim: int) -> NDArray[np.int64] | None:
    """The inputs (dim 1) or outputs (dim 0) of a reader that a plan keeps; None if it removes none of them."""
    for cut in plan.cuts:
        if cut.tensor == reader.parameter and cut.dim == dim:
            return np.array(cut.indices, dtype=np.int64)
    return None


def sampled_windows(layer: nn.Module, images: Tensor, positions: int, seed: int) -> Tensor:
    """The inputs of ``layer`` at this number of random output positions of each image: (rows, features).

    ``images`` (N, C, H, W), or (N, ..., features) for a linear layer, is the input of the layer; its stride, padding
    and dilation apply. If there are not more positions, all are taken. One seed and shape give the same positions.
    """
    if isinstance(layer, nn.Linear):
        rows = images.reshape(len(images), -1, images.shape[-1])
        chosen = _chosen(len(rows), rows.shape[1], positions, seed, images.device)
        return rows[_each(rows, 1), chosen].flatten(0, 1)
    assert isinstance(layer, nn.Conv2d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
    height, width = (
        (size - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, dilation in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    )
    chosen = _chosen(len(images), height * width, positions, seed, images.device)[:, :, None, None]
    down, along = (
        step * torch.arange(kernel, device=images.device)
        for step, kernel in zip(layer.dilation, layer.kernel_size, strict=True)
    )
    rows = chosen // width * layer.stride[0] + down[:, None]
    columns = chosen % width * layer.stride[1] + along
    windows = padded[_each(padded, 3), :, rows, columns]  # (N, positions, kernel height, kernel width, C)
    return windows.movedim(-1, 2).flatten(2).flatten(0, 1)


def _is_plain(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return (
            module.groups == 1
            and type(module).forward is nn.Conv2d.forward
            and "weight" in module._parameters
        )
    return (
        isinstance(module, nn.Linear)
        and type(module).forward is nn.Linear.forward
        and "weight" in module._parameters
    )


def _chosen(images: int, available: int, positions: int, seed: int, device: torch.device) -> Tensor:
    """Positions (images, positions), drawn from ``available`` ones with replacement, or all of them."""
    if available <= positions:
        return torch.arange(available, device=device).expand(images, -1)
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(available, (images, positions), generator=generator).to(device)


def _each(tensor: Tensor, dimensions: int) -> Tensor:
    """The index of each image, broadcastable to index arrays with this number of further dimensions."""
    return torch.arange(len(tensor), device=tensor.device).reshape(-1, *[1] * dimensions)
