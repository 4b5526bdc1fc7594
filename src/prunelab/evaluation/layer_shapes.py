"""LayerShape: the properties on which the time of one layer depends; the key of a latency table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prunelab.structure.layers import Layer

Shape = tuple[int, ...]

BN_RELU, RELU, NOTHING = "bn+relu", "relu", ""
"""Operators that usually follow a layer and are timed with it: runtimes fuse them, or they take time for each
output."""


@dataclass(frozen=True)
class LayerShape:
    """The shape of one operator.

    Attributes:
        size: height and width of the input (one number for each dimension of places); of a linear layer the number
            of rows of one image, such as tokens.
        kernel, stride, padding, dilation: of a convolution; () for a linear layer.
        transposed: whether it is a transposed convolution.
        inputs, outputs, groups: channels; features of a linear layer.
        tail: operators that are timed with it: "bn+relu", "relu" or "".

    Example:
        >>> LayerShape((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), False, 16, 32, 1, "relu").key
        'conv 16>32 3x3 stride 1x1 padding 1x1 dilation 1x1 groups 1 at 8x8 + relu'
    """

    size: Shape
    kernel: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    transposed: bool
    inputs: int
    outputs: int
    groups: int
    tail: str

    @property
    def is_linear(self) -> bool:
        """Whether it is a matrix product with weights, and not a convolution."""
        return not self.kernel

    @property
    def key(self) -> str:
        """The name of the shape in a table."""
        place, tail = _times(self.size), f" + {self.tail}" if self.tail else ""
        if self.is_linear:
            return f"linear {self.inputs}>{self.outputs} rows {place}{tail}"
        word = "transposed" if self.transposed else "conv"
        return (
            f"{word} {self.inputs}>{self.outputs} {_times(self.kernel)} stride {_times(self.stride)} "
            f"padding {_times(self.padding)} dilation {_times(self.dilation)} groups {self.groups} at {place}{tail}"
        )

    def at(self, inputs: int, outputs: int, groups: int) -> LayerShape:
        """The same layer with other widths."""
        return replace(self, inputs=inputs, outputs=outputs, groups=groups)

    def values(self, batch: int) -> int:
        """The numbers in one batch of inputs."""
        return batch * self.inputs * prod(self.size)


def shape_of(layer: Layer) -> LayerShape:
    """The shape of a layer of a network. Products of activations count as linear layers of as many operations."""
    if layer.kernel:
        size = layer.input_shape[-len(layer.kernel) :]
        tail = RELU if layer.flops > 2 * layer.macs else BN_RELU  # a layer before a BatchNorm has no bias
        return LayerShape(
            size, layer.kernel, layer.stride, layer.padding, layer.dilation, layer.transposed,
            layer.in_channels, layer.out_channels, layer.groups, tail,
        )  # fmt: skip
    rows = max(1, round(layer.macs / max(1, layer.in_channels * layer.out_channels)))
    return LayerShape(
        (rows,), (), (), (), (), False, layer.in_channels, layer.out_channels, 1, NOTHING,
    )  # fmt: skip


def _times(numbers: Shape) -> str:
    return "x".join(map(str, numbers))
