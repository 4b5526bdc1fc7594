"""PredictedLatency: the forward time of a network for any widths of its groups, from a table of layers."""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from prunelab.evaluation.latency_table import LatencyTable
from prunelab.evaluation.layer_shapes import LayerShape, shape_of
from prunelab.structure import CostModel

Array = NDArray[np.float64]

FINE = 64
"""Up to this width layers are measured at all multiples of 8, where kernels differ; above at four widths per octave."""


class PredictedLatency:
    """Milliseconds of one forward pass: the sum of the times of its layers, times a scale.

    Between the widths at which a layer is measured its time is interpolated linearly in inputs and in outputs: the
    work of a layer is a product of both. The scale is chosen so that the full network has its measured time; it
    accounts for everything outside the layers: additions, pooling, the runtime itself.

    Args:
        cost: cost model of the network; its ``layer_widths`` turn widths of groups into widths of layers.
        table: times of layers.
        scale: see above.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> cost = prunelab.analyze(network, torch.zeros(1, 3, 8, 8)).cost
        >>> table = LatencyTable(Target(), measure=lambda shape: shape.inputs * shape.outputs / 1000)
        >>> PredictedLatency(cost, table)(np.array([[8], [4]]), np.ones((2, 0))).round(3).tolist()
        [0.056, 0.028]
    """

    def __init__(self, cost: CostModel, table: LatencyTable, scale: float = 1.0) -> None:
        self.table, self.scale = table, scale
        self._cost = cost
        self._known: dict[tuple[int, int, int, int], float] = {}

    def __call__(self, widths: Array, alive: Array) -> Array:
        """Milliseconds (B,) for widths (B, groups) and living blocks (B, blocks)."""
        at = self._cost.layer_widths(widths, alive)
        total = np.zeros(len(at.inputs))
        for layer in range(len(self._shapes)):
            columns = (at.inputs[:, layer], at.outputs[:, layer], at.groups[:, layer], at.alive[:, layer])
            total += self._of_layer(layer, np.stack(columns, axis=1))
        return total * self.scale

    @cached_property
    def _shapes(self) -> tuple[LayerShape, ...]:
        return tuple(shape_of(layer) for layer in self._cost.layers())

    @cached_property
    def _kinds(self) -> tuple[int, ...]:
        """For each layer the number of the first one with the same shape, which has the same time."""
        return tuple(self._shapes.index(shape) for shape in self._shapes)

    def _of_layer(self, layer: int, rows: NDArray[np.int64]) -> Array:
        """Milliseconds of one layer for rows (inputs, outputs, groups, alive)."""
        different, places = np.unique(rows, axis=0, return_inverse=True)
        kind = self._kinds[layer]
        values = [self._at(kind, *row[:3]) if row[3] else 0.0 for row in different.tolist()]
        return np.array(values)[places.reshape(-1)]

    def _at(self, kind: int, inputs: int, outputs: int, groups: int) -> float:
        place = (kind, inputs, outputs, groups)
        if place not in self._known:
            shape = self._shapes[kind]
            if min(inputs, outputs, groups) < 1:
                self._known[place] = 0.0
            elif groups > 1 and inputs * shape.groups == groups * shape.inputs:
                self._known[place] = self._with_groups(shape, groups, outputs)
            else:
                self._known[place] = self._with_widths(shape, inputs, outputs, groups)
        return self._known[place]

    def _with_groups(self, shape: LayerShape, groups: int, outputs: int) -> float:
        """A layer whose number of groups depends on its width, such as a depthwise convolution."""
        each_in, each_out = shape.inputs // shape.groups, max(1, outputs // groups)
        return sum(
            weight * self.table.milliseconds(shape.at(each_in * at, each_out * at, at))
            for at, weight in corners(groups, shape.groups, 1)
        )

    def _with_widths(self, shape: LayerShape, inputs: int, outputs: int, groups: int) -> float:
        return sum(
            before * after * self.table.milliseconds(shape.at(entering, leaving, groups))
            for entering, before in corners(inputs, shape.inputs, groups)
            for leaving, after in corners(outputs, shape.outputs, groups)
        )


def corners(width: int, full: int, multiple: int) -> list[tuple[int, float]]:
    """The measured widths around ``width``, and their weights in a linear interpolation: one if it is measured itself.

    Args:
        full: the width in the full network, which is measured in any case.
        multiple: divisor of the measured widths (the number of groups of a convolution).

    Example:
        >>> corners(24, 64, 1), corners(200, 512, 1)
        ([(24, 1.0)], [(192, 0.75), (224, 0.25)])
    """
    grid = measured_widths(full, multiple)
    above = bisect_left(grid, width)
    if above == len(grid):  # wider than the full network; never the result of pruning
        return [(width, 1.0)]
    if grid[above] == width or above == 0:
        return [(max(width, multiple), 1.0)]
    low, high = grid[above - 1], grid[above]
    share = (width - low) / (high - low)
    return [(low, 1 - share), (high, share)]


def measured_widths(full: int, multiple: int) -> list[int]:
    """The widths at which a layer with ``full`` channels is measured, narrowest first."""
    fine = [1, 2, 4, *range(8, FINE + 1, 8)]
    octaves = [base * quarter // 4 for base in _powers(FINE, full) for quarter in (5, 6, 7, 8)]
    rounded = {max(multiple, round(width / multiple) * multiple) for width in (*fine, *octaves)}
    return sorted({width for width in rounded if width < full} | {full})


def _powers(first: int, last: int) -> list[int]:
    powers = []
    while first < last:
        powers.append(first)
        first *= 2
    return powers
