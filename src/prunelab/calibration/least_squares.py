"""Weights of layers that read pruned channels, fitted so that their outputs are close to the previous ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from pytorch_lightning.utilities import rank_zero_info
from torch import Tensor

from prunelab.calibration.checks import require_positive
from prunelab.calibration.normal_equations import RIDGES, Fit, Sums, fitted
from prunelab.calibration.pair import Pair, kept_inputs, read_weights, write
from prunelab.calibration.segments import Course, find_segments
from prunelab.calibration.targets import Target, record_targets, sums_with_targets
from prunelab.errors import UserError
from prunelab.structure.found_layers import Layer, find_layers
from prunelab.structure.layer_calls import Use, Watch, outputs_at, parameter_names

_SEGMENT = 4
"""Approximate number of layers that are run again while one of them is fitted."""


@dataclass(frozen=True)
class LeastSquares:
    """Refit layers to their outputs in the full network, before normalisation, on images without labels.

    sequential: fit the layers from the first to the last: inputs are those of the pruned network with all earlier
        layers refitted, outputs those of the full network, so that each layer also compensates errors of earlier layers
        (as in He et al., Channel Pruning, ICCV 2017, arXiv:1707.06168). False: all layers that lost inputs are fitted
        with the inputs of the full network.
    sums: a layer whose output is added to another tensor also compensates the error of that tensor (sequential only).
    positions: random positions of each image at which outputs are compared.
    ridges: penalties on the change of weights that are tried, relative to the mean variance of an input; for each layer
        the one with the smallest error on images that its fit does not use is taken.
    folds: number of parts of the images, each of which is held out once; with one fold the only (or largest) ridge is
        used.
    memory: limit on the bytes of the sums in memory.

    Convolutions (1d and 2d, any kernel, stride, dilation and groups) and linear layers are refitted. A constant is
    fitted for each output of layers with a bias or a batch normalisation after them, whose running mean is changed.
    """

    sequential: bool = True
    sums: bool = True
    positions: int = 64
    ridges: tuple[float, ...] = RIDGES
    folds: int = 4
    memory: int = 2**30

    def __post_init__(self) -> None:
        require_positive("least_squares", positions=self.positions, folds=self.folds, memory=self.memory)
        object.__setattr__(self, "ridges", tuple(self.ridges))  # a configuration contains a list
        if not self.ridges or min(self.ridges) <= 0:
            raise UserError(
                f"recipe.calibration: ridges={list(self.ridges)} must be numbers above 0, because inputs can be "
                "linearly dependent."
            )

    def __call__(self, pair: Pair) -> dict[str, Fit]:
        """Adjust ``pair.pruned``; returns the fit of each layer, by the name of its weight."""
        with pair.looking(), torch.no_grad():
            full, pruned = find_layers(pair.full, pair.example), find_layers(pair.pruned, pair.example)
            layers = {name: layer for name, layer in pruned.items() if name in full}
            fits = dict(
                self._sequential(pair, layers) if self.sequential else self._joint(pair, layers, full)
            )
        _report(fits)
        return fits

    def _sequential(self, pair: Pair, layers: Mapping[str, Layer]) -> Iterator[tuple[str, Fit]]:
        segments = find_segments((pair.pruned, pair.full), pair.example, list(layers), _SEGMENT)
        full = Course(pair.full, pair.batches, pair.example)
        pruned = Course(pair.pruned, pair.batches, pair.example)
        for segment in segments:
            chosen = {name: layers[name] for name in segment.layers}
            targets = record_targets(pair, full, segment.stop, chosen, self.positions)
            for name, layer in chosen.items():
                sums = self._sums(pair, pruned, segment.stop, layer, targets[name])
                yield name, self._refit(pair, layer, sums)
            pruned.advance(segment.stop)

    def _sums(
        self, pair: Pair, pruned: Course, stop: str | None, layer: Layer, targets: Sequence[Target]
    ) -> Sums:
        folds = max(1, min(self.folds, self.memory // (3 * _bytes(layer, 1))))
        sums = sums_with_targets(pair, pruned, stop, layer, targets, self.positions, folds, self.sums)
        sums.reduce()
        return sums

    def _joint(
        self, pair: Pair, layers: Mapping[str, Layer], full: Mapping[str, Layer]
    ) -> Iterator[tuple[str, Fit]]:
        chosen = {name: layer for name, layer in layers.items() if pair.kept(name, 1) is not None}
        for part in self._parts(chosen):
            found = _sums_of_full(pair, {name: (layers[name], full[name]) for name in part}, self)
            for name, sums in found.items():
                sums.reduce()
                yield name, self._refit(pair, layers[name], sums)

    def _parts(self, layers: Mapping[str, Layer]) -> Iterator[list[str]]:
        """Consecutive layers whose sums fit into ``memory`` together; a layer that does not fit is a part of its
        own."""
        part: list[str] = []
        taken = 0
        for name, layer in layers.items():
            size = _bytes(layer, self.folds)
            if part and taken + size > self.memory:
                yield part
                part, taken = [], 0
            part.append(name)
            taken += size
        if part:
            yield part

    def _refit(self, pair: Pair, layer: Layer, sums: Sums) -> Fit:
        fit = fitted(sums, read_weights(pair.pruned, layer), layer.takes_constant, self.ridges)
        write(pair.pruned, layer, fit.weights, fit.constants.flatten())
        return fit


def _bytes(layer: Layer, folds: int) -> int:
    """The bytes of the sums of a layer."""
    return 8 * folds * layer.groups * layer.features * (layer.features + layer.shape[0] // layer.groups)


def _sums_of_full(
    pair: Pair, layers: Mapping[str, tuple[Layer, Layer]], settings: LeastSquares
) -> dict[str, Sums]:
    """Sums with inputs and outputs of the full network, restricted to those that the pruned network has.

    ``layers``: those of the pruned and of the full network, by the names of their weights.
    """
    device = pair.example.device
    sums = {
        name: Sums.zeros(settings.folds, layer.groups, layer.features, layer.shape[0] // layer.groups, device)
        for name, (layer, _) in layers.items()
    }
    inputs: dict[str, tuple[Tensor, Tensor, bool]] = {}

    def entered(name: str, use: Use) -> None:
        if name in layers:
            groups, columns = kept_inputs(pair, layers[name][1])
            chosen = use.chosen(settings.positions, pair.seed)
            x = use.inputs(chosen)
            x = x.reshape(*x.shape[:2], -1, layers[name][1].shape[2])
            inputs[name] = x[groups][:, :, columns].flatten(2), chosen, use.linear

    def left(name: str, out: Tensor) -> None:
        if name in layers:
            x, chosen, linear = inputs.pop(name)
            kept = pair.kept(name, 0)
            y = outputs_at(out, chosen, linear)
            y = y if kept is None else y[:, kept]
            sums[name].add(x, y.reshape(len(y), len(x), -1).movedim(1, 0), len(chosen))

    with Watch(parameter_names(pair.full), entered, left):
        for images in pair.batches:
            pair.full(images)
    return sums


def _report(fits: Mapping[str, Fit]) -> None:
    if fits:
        before, after = (
            sum(values) / len(fits)
            for values in zip(*((fit.before, fit.after) for fit in fits.values()), strict=True)
        )
        rank_zero_info(
            f"Least squares refitted {len(fits)} layers. Errors of their outputs, relative to the variance, on images "
            f"that were held out: {before:.1%} with the previous weights, {after:.1%} now (means over layers)."
        )
