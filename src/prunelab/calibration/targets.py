"""Outputs of layers of the full network, and their sums of products with inputs of the pruned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prunelab.calibration.normal_equations import Sums
from prunelab.calibration.pair import Pair, slope
from prunelab.calibration.segments import Course, Stopped
from prunelab.structure.found_layers import Layer
from prunelab.structure.layer_calls import Use, Watch, outputs_at, parameter_names

_FLAT = 1e-2
"""A normalisation with a slope below this fraction of the median makes an output too small to correct a sum."""


@dataclass
class Target:
    """The outputs of a layer of the full network at the chosen positions of one batch, (rows, outputs), and the other
    operand of the sum that the layer closes (None: it closes none)."""

    outputs: Tensor
    other: Tensor | None = None


def record_targets(
    pair: Pair, course: Course, stop: str | None, layers: Mapping[str, Layer], positions: int
) -> dict[str, list[Target]]:
    """Run a segment of the full network to its end; returns the targets of each layer, batch by batch."""
    found: dict[str, list[Target]] = {name: [] for name in layers}
    chosen: dict[str, tuple[Tensor, bool]] = {}

    def entered(name: str, use: Use) -> None:
        if name in layers:
            chosen[name] = use.chosen(positions, pair.seed), use.linear

    def left(name: str, out: Tensor) -> None:
        if name in layers:
            found[name].append(Target(outputs_at(out, *chosen[name])))

    def added(names: tuple[str | None, ...], operands: tuple[Tensor, ...]) -> None:
        for name, other in zip(names, operands[::-1], strict=True):
            if name is not None and name in layers and layers[name].closes_sum:
                found[name][-1].other = outputs_at(other, *chosen[name])

    with Watch(parameter_names(pair.full), entered, left, None, added):
        course.advance(stop)
    return found


def sums_with_targets(
    pair: Pair,
    course: Course,
    stop: str | None,
    layer: Layer,
    targets: Sequence[Target],
    positions: int,
    folds: int,
    with_sums: bool,
) -> Sums:
    """Sums with inputs of the pruned network and outputs of the full one."""
    work = _Pairing(pair, layer, targets, positions, folds, with_sums)
    with Watch(parameter_names(pair.pruned), work.entered, None, None, work.added):
        for _ in course.run(stop):
            work.finish()
        work.finish()
    return work.sums


class _Pairing:
    """Collects the inputs of a layer of the pruned network with their targets, batch by batch."""

    def __init__(
        self,
        pair: Pair,
        layer: Layer,
        targets: Sequence[Target],
        positions: int,
        folds: int,
        with_sums: bool,
    ) -> None:
        self._pair, self._layer, self._targets = pair, layer, iter(targets)
        self._positions = positions
        self._closes = layer.closes_sum and with_sums
        self._kept = pair.kept(layer.weight, 0)
        self._waiting: tuple[Tensor, Tensor, bool] | None = None
        self._outputs = layer.shape[0] // layer.groups
        device = pair.example.device
        self.sums = Sums.zeros(folds, layer.groups, layer.features, self._outputs, device)

    def entered(self, name: str, use: Use) -> None:
        """Called before the layer: its inputs are known, and the pass may end unless its sum is needed."""
        if name != self._layer.weight:
            return
        chosen = use.chosen(self._positions, self._pair.seed)
        self._waiting = use.inputs(chosen), chosen, use.linear
        if not self._closes:
            raise Stopped

    def added(self, names: tuple[str | None, ...], operands: tuple[Tensor, ...]) -> None:
        """Called when the layer's output is added to another tensor."""
        if self._closes and self._waiting is not None and self._layer.weight in names:
            other = operands[1 - names.index(self._layer.weight)]
            self._add(outputs_at(other, *self._waiting[1:]))
            raise Stopped

    def finish(self) -> None:
        """Called at the end of a pass; if the sum was not part of it, the layer's own outputs are the target."""
        if self._waiting is not None:
            self._add(None)

    def _add(self, other: Tensor | None) -> None:
        assert self._waiting is not None
        inputs, chosen, _ = self._waiting
        self._waiting = None
        target = next(self._targets)
        y = self._left(target.outputs)
        if other is not None and target.other is not None:
            y = y + self._correction(self._left(target.other) - other.double())
        y = y.reshape(len(y), self._layer.groups, self._outputs).movedim(1, 0)
        self.sums.add(inputs, y, len(chosen))

    def _left(self, rows: Tensor) -> Tensor:
        """The outputs (rows, outputs) that the pruned layer has."""
        return (rows if self._kept is None else rows[:, self._kept]).double()

    def _correction(self, error: Tensor) -> Tensor:
        """The change of the outputs that changes the sum after the normalisation by ``error``."""
        if self._layer.norm is None:
            return error
        found = slope(self._pair.pruned, self._layer.norm)
        usable = found.abs() > _FLAT * found.abs().median()
        return torch.where(usable, error / torch.where(usable, found, 1.0), 0.0)
