"""Shapes, kernels, widths, parameters and operations of single layers, for any widths of the groups."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from prunelab.structure.cost_terms import CostSum

Shape = tuple[int, ...]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Layer:
    """One contraction of a forward pass: a convolution, a linear layer, or a product of two activations.

    Attributes:
        position: number among the layers of the full network, in the order of the forward pass.
        module: path of the module that runs it; a module that runs twice has two layers.
        kind: class of that module ("Conv2d").
        operator: "convolution", "linear", "product" (of two activations) or "attention" (fused).
        weight: name of the parameter that it reads; None for products and attention.
        kernel, stride, padding, dilation: of a convolution, one number for each dimension of places; else ().
        groups: of a convolution, or the number of heads of fused attention; else 1.
        transposed: whether it is a transposed convolution.
        input_shape, output_shape: shapes of the activations, with the batch of the example input.
        in_channels, out_channels: contracted width, and width of the result.
        params: entries of the parameters that it reads (weight and bias).
        macs, flops: for one image.
        reads, makes: names of the groups whose channels it reads and produces.
    """

    position: int
    module: str
    kind: str
    operator: str
    weight: str | None
    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    groups: int
    transposed: bool
    input_shape: Shape
    output_shape: Shape
    in_channels: int
    out_channels: int
    params: int
    macs: int
    flops: int
    reads: tuple[str, ...]
    makes: tuple[str, ...]


@dataclass(frozen=True)
class ModuleCost:
    """A row of ``CostModel.by_module``.

    Attributes:
        module: path of the module.
        kind: its class.
        runs: number of its calls in one forward pass.
        input_shape, output_shape: of its first call; () if it takes or returns something other than a tensor first.
        kernel, stride: of its first convolution; else ().
        groups: of its first convolution; else 1.
        params: parameters of its own (not those of modules inside it).
        macs, flops: of its own operators, in all calls, for one image.
    """

    module: str
    kind: str
    runs: int
    input_shape: Shape
    output_shape: Shape
    kernel: Shape
    stride: Shape
    groups: int
    params: int
    macs: int
    flops: int


@dataclass(frozen=True)
class LayerWidths:
    """Widths of the layers of B networks, each array (B, layers).

    ``alive`` is False for a layer in a dropped block.
    """

    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]
    groups: NDArray[np.int64]
    alive: NDArray[np.bool_]


@dataclass(frozen=True)
class Located:
    """A layer or module of the full network, and the forms and blocks on which its figures depend.

    ``shapes`` are the forms of each dimension of the input and the output; ``widths`` those of a layer's in_channels,
    out_channels and groups; ``block`` is the column of ``alive``.
    """

    facts: Layer | ModuleCost
    shapes: tuple[tuple[int, ...], tuple[int, ...]]
    widths: tuple[int, int, int]
    block: int


@dataclass(frozen=True)
class Owned:
    """A sum whose terms belong to rows of a table: term t is part of row ``rows[t]`` (-1: of none)."""

    terms: CostSum
    rows: NDArray[np.int64]

    def of_rows(self, count: int, dimensions: Array, alive: Array) -> Array:
        """The share of each row, (count,), of one network."""
        values = self.terms.values(dimensions, alive)[0]
        chosen = self.rows >= 0
        return np.bincount(self.rows[chosen], values[chosen], minlength=count).astype(np.float64)


@dataclass(frozen=True)
class Rows:
    """The rows of one table, with their parameters, operations and bias additions."""

    located: tuple[Located, ...]
    params: Owned
    operations: Owned
    biases: Owned


@dataclass(frozen=True)
class LayerTable:
    """Layers and modules of a network as functions of widths (B, G) and living blocks (B, columns)."""

    multiplicity: Array
    constant: Array
    images: int
    by_layer: Rows
    by_module: Rows

    def layers(self, widths: Array, living: Array) -> tuple[Layer, ...]:
        """The layers of the one network (B = 1) of these widths."""
        return tuple(row for row in self._evaluated(self.by_layer, widths, living) if isinstance(row, Layer))

    def modules(self, widths: Array, living: Array) -> tuple[ModuleCost, ...]:
        """The modules of the one network (B = 1) of these widths."""
        found = self._evaluated(self.by_module, widths, living)
        return tuple(row for row in found if isinstance(row, ModuleCost))

    def widths(self, widths: Array, living: Array) -> LayerWidths:
        """The widths of all layers of B networks."""
        dimensions = self._dimensions(widths)
        located = self.by_layer.located
        forms = np.array([row.widths for row in located], dtype=np.int64).reshape(-1, 3)
        inputs, outputs, groups = (np.rint(dimensions[:, forms[:, k]]).astype(np.int64) for k in range(3))
        alive = living[:, [row.block for row in located]] > 0
        return LayerWidths(inputs, outputs, groups, alive)

    def _dimensions(self, widths: Array) -> Array:
        return widths @ self.multiplicity.T + self.constant

    def _evaluated(self, rows: Rows, widths: Array, living: Array) -> list[Layer | ModuleCost]:
        dimensions = self._dimensions(widths)
        sizes = np.rint(dimensions[0]).astype(np.int64).tolist()
        count = len(rows.located)
        params, operations, biases = (
            owned.of_rows(count, dimensions, living) for owned in (rows.params, rows.operations, rows.biases)
        )
        found = []
        for number, row in enumerate(rows.located):
            if not living[0, row.block]:
                continue
            before, after = (tuple(sizes[form] for form in shape) for shape in row.shapes)
            facts = replace(
                row.facts,
                input_shape=before,
                output_shape=after,
                groups=sizes[row.widths[2]],
                params=round(params[number]),
                macs=round(operations[number] / 2 / self.images),
                flops=round((operations[number] + biases[number]) / self.images),
            )
            if isinstance(facts, Layer):
                facts = replace(facts, in_channels=sizes[row.widths[0]], out_channels=sizes[row.widths[1]])
            found.append(facts)
        return found
