"""Pair: a pruned network and its full network, the input of every calibration step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from prunelab.distributed.ranks import gather
from prunelab.errors import UserError
from prunelab.structure import PruningPlan
from prunelab.structure.found_layers import Layer, Norm


@dataclass(frozen=True)
class Pair:
    """The two networks, and images without labels.

    full: the network before it was pruned; it is not changed.
    pruned: ``full`` pruned by ``plan``; its weights and statistics are adjusted in place.
    batches: this rank's images, (N, C, H, W) each, on the device of both networks.
    example: one image (1, C, H, W), the same on every rank; a rank may have no batch.
    seed: of all random numbers.
    """

    full: nn.Module
    pruned: nn.Module
    plan: PruningPlan
    batches: Sequence[Tensor]
    example: Tensor
    seed: int = 0

    def kept(self, tensor: str, dim: int) -> Tensor | None:
        """The entries of a tensor's dimension that the plan keeps; None if all are kept."""
        for cut in self.plan.cuts:
            if cut.tensor == tensor and cut.dim == dim:
                return torch.tensor(cut.indices, device=self.example.device)
        return None

    def all_images(self) -> Tensor:
        """The images of all ranks, (N, C, H, W), in the order of one process."""
        shares = gather([batch.cpu() for batch in self.batches])
        longest = max(len(share) for share in shares)
        dealt = [share[place] for place in range(longest) for share in shares if place < len(share)]
        if not dealt:
            raise UserError("The calibration loader holds no images to calibrate with.")
        return torch.cat(dealt).to(self.example.device)

    def read_channels(self, layer: Layer) -> Tensor:
        """The entries of the channel dimension of a layer's input in the full network that the pruned network has.

        ``layer`` is that of the full network.
        """
        groups, columns = kept_inputs(self, layer)
        channels = (groups[:, None] * layer.shape[1] + columns).ravel()
        return torch.from_numpy(channels).to(self.example.device)

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Context in which both networks are in evaluation mode; afterwards each module has its earlier mode."""
        flags = [(module, module.training) for net in (self.full, self.pruned) for module in net.modules()]
        self.full.eval()
        self.pruned.eval()
        try:
            yield
        finally:
            for module, training in flags:
                module.training = training


def slope(model: nn.Module, norm: Norm) -> Tensor:
    """The factor of each channel in a batch normalisation, (channels,), float64."""
    found = (model.get_buffer(norm.variance).double() + norm.eps).rsqrt()
    return found if norm.scale is None else found * model.get_parameter(norm.scale).detach().double()


@torch.no_grad()
def read_weights(model: nn.Module, layer: Layer) -> Tensor:
    """The weights of a layer, (groups, outputs of a group, features), float64."""
    weight = model.get_parameter(layer.weight).detach().double()
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)


@torch.no_grad()
def write(model: nn.Module, layer: Layer, weights: Tensor, constants: Tensor) -> None:
    """Set the weights of a layer, and constants (outputs,) that are added to the products with the weights."""
    weight = model.get_parameter(layer.weight)
    weight.copy_(weights.reshape(weight.shape))
    shift_outputs(model, layer, constants, instead=True)


@torch.no_grad()
def shift_outputs(model: nn.Module, layer: Layer, constants: Tensor, instead: bool = False) -> None:
    """Add constants (outputs,) to the outputs of a layer (``instead``: of its present bias)."""
    if layer.bias is not None:
        bias = model.get_parameter(layer.bias)
        bias.copy_((0 if instead else bias) + constants.to(bias))
    elif layer.norm is not None:
        mean = model.get_buffer(layer.norm.mean)
        mean -= constants.to(mean)


def kept_inputs(pair: Pair, layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """The groups, and the inputs of each group, of a layer of the full network that the pruned one has."""
    outputs, inputs = pair.kept(layer.weight, 0), pair.kept(layer.weight, 1)
    count, fan_in, _ = layer.shape
    per_group = count // layer.groups
    rows = np.arange(count) if outputs is None else outputs.cpu().numpy()
    left = np.unique(rows // per_group)
    columns = np.arange(fan_in) if inputs is None else inputs.cpu().numpy()
    return left, columns
