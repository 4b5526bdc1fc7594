"""What a layer and its sequences cost: FLOPs, parameters, or milliseconds on a target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import nn

from prunelab.evaluation.latency_table import LatencyTable
from prunelab.evaluation.layer_shapes import BN_RELU, NOTHING, RELU, LayerShape
from prunelab.factorisation.target_layers import TargetLayer
from prunelab.structure.low_rank import Factors, Part, PlainLayer, Size, kernel_of, parts_of, widths_of


class Cost(Protocol):
    """The cost of a sequence, or (None) of the layer itself."""

    def __call__(self, layer: TargetLayer, factors: Factors | None) -> float: ...


@dataclass(frozen=True)
class Counted:
    """FLOPs of all calls for one image, or parameters."""

    resource: str

    def __call__(self, layer: TargetLayer, factors: Factors | None) -> float:
        return layer.cost(self.resource, factors)


@dataclass(frozen=True)
class Timed:
    """Milliseconds of all calls by a table, not scaled. Layers that the table does not contain are measured."""

    table: LatencyTable

    def __call__(self, layer: TargetLayer, factors: Factors | None) -> float:
        return sum(
            self.table.milliseconds(shape)
            for before, after in layer.calls
            for shape in shapes_of(layer.module, factors, before, after)
        )


def shapes_of(layer: PlainLayer, factors: Factors | None, before: Size, after: Size) -> Iterator[LayerShape]:
    """The shapes of the layers of a sequence, or (None) of the layer itself, for the latency table.

    ``before`` and ``after`` are height and width of input and output; (rows, 1) of a linear layer.

    Example:
        >>> layer = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        >>> from prunelab.structure.low_rank import Factors
        >>> for shape in shapes_of(layer, Factors("spatial", (8,)), (10, 12), (5, 6)):
        ...     print(shape.key)
        conv 16>8 3x1 stride 2x1 padding 1x0 dilation 1x1 groups 1 at 10x12
        conv 8>32 1x3 stride 1x2 padding 0x1 dilation 1x1 groups 1 at 5x12 + bn+relu
    """
    inputs, outputs = widths_of(layer)
    whole = Part(inputs, outputs, down=True, along=True)
    parts = (whole,) if factors is None else parts_of(layer, factors)
    tail = NOTHING if isinstance(layer, nn.Linear) else BN_RELU if layer.bias is None else RELU
    size = before
    for part in parts:
        yield _shape(layer, part, size, tail if part is parts[-1] else NOTHING)
        size = (after[0] if part.down else size[0]), (after[1] if part.along else size[1])


def _shape(layer: PlainLayer, part: Part, size: Size, tail: str) -> LayerShape:
    if isinstance(layer, nn.Linear):
        return LayerShape((size[0],), (), (), (), (), False, part.inputs, part.outputs, 1, NOTHING)

    def only(pair: Sequence[int], otherwise: int) -> Size:
        return (pair[0] if part.down else otherwise), (pair[1] if part.along else otherwise)

    kernel, dilation = only(kernel_of(layer), 1), only(layer.dilation, 1)
    return LayerShape(
        size, kernel, only(layer.stride, 1), only(_padding(layer), 0), dilation, False,
        part.inputs, part.outputs, part.groups, tail,
    )  # fmt: skip


def _padding(layer: nn.Conv2d) -> Size:
    """The padding in numbers; of "same" with an even kernel the smaller side."""
    named: Mapping[str, Size] = {
        "valid": (0, 0),
        "same": (
            layer.dilation[0] * (layer.kernel_size[0] - 1) // 2,
            layer.dilation[1] * (layer.kernel_size[1] - 1) // 2,
        ),
    }
    return named[layer.padding] if isinstance(layer.padding, str) else (layer.padding[0], layer.padding[1])
