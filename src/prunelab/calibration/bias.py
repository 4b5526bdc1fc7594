"""The mean contribution of removed channels is added to the bias of the layers that read them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prunelab.calibration.pair import Pair, shift_outputs
from prunelab.distributed.ranks import sum_over_ranks
from prunelab.structure.found_layers import Layer, find_layers
from prunelab.structure.layer_calls import Use, Watch, parameter_names


@dataclass(frozen=True)
class Bias:
    """The mean of W_R x_R, over all images and positions of the full network, is added to each output of a layer that
    lost the inputs R.

    It is added to the bias or, with the opposite sign, to the running mean of the batch normalisation after the layer;
    a layer without both does not change. x_R are the inputs of the layer, after normalisations, depthwise convolutions
    and activation functions. A channel that is constant over all images and positions (its scale is 0) is removed
    without loss, except at the border of maps that are padded with zeros.
    """

    def __call__(self, pair: Pair) -> None:
        """Adjust ``pair.pruned``."""
        with pair.looking(), torch.no_grad():
            full, pruned = find_layers(pair.full, pair.example), find_layers(pair.pruned, pair.example)
            chosen = {
                name: full[name]
                for name, layer in pruned.items()
                if name in full and layer.takes_constant and pair.kept(name, 1) is not None
            }
            for name, mean in _means(pair, chosen).items():
                shift_outputs(pair.pruned, pruned[name], _contribution(pair, full[name], mean))


def _means(pair: Pair, layers: dict[str, Layer]) -> dict[str, Tensor]:
    """E[x] (groups, features) of the inputs of each of these layers of the full network."""
    none = torch.zeros((), dtype=torch.float64, device=pair.example.device)
    sums = {name: none.new_zeros(each.groups, each.features) for name, each in layers.items()}
    counts = {name: none.clone() for name in layers}

    def entered(name: str, use: Use) -> None:
        if name in layers:
            height, width = use.map_size
            sums[name] += use.summed_inputs()
            counts[name] += len(use.images) * height * width

    with Watch(parameter_names(pair.full), entered):
        for images in pair.batches:
            pair.full(images)
    for name in layers:
        sum_over_ranks(sums[name])
        sum_over_ranks(counts[name])
    return {name: sums[name] / counts[name].clamp(min=1) for name in layers}


def _contribution(pair: Pair, layer: Layer, mean: Tensor) -> Tensor:
    """The mean contribution of the removed inputs to each remaining output: (outputs,)."""
    weight = pair.full.get_parameter(layer.weight).detach().double()
    weight = weight.reshape(layer.groups, -1, layer.shape[1], layer.shape[2])
    removed = torch.ones(layer.shape[1], dtype=torch.bool, device=weight.device)
    removed[pair.kept(layer.weight, 1)] = False
    means = mean.reshape(layer.groups, 1, layer.shape[1], layer.shape[2])
    shifts = (weight * means)[:, :, removed].sum(dim=(2, 3)).flatten()
    outputs = pair.kept(layer.weight, 0)
    return shifts if outputs is None else shifts[outputs]
