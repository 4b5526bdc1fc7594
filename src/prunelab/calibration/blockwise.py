"""A short optimisation of each block's weights, so that its output is that of the full network's block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from prunelab.calibration.checks import require_positive
from prunelab.calibration.pair import Pair
from prunelab.calibration.segments import Course, Segment, Stopped, find_segments
from prunelab.calibration.tuning import Minibatches, tune
from prunelab.structure.found_layers import Layer, find_layers
from prunelab.structure.layer_calls import Use, Watch, parameter_names


@dataclass(frozen=True)
class Blockwise:
    """Adam on the weights of one block after the other, with inputs from the pruned and outputs from the full network.

    Like the reconstruction of blocks in quantisation (Li et al., BRECQ, ICLR 2021, arXiv:2102.05426), with a plain
    squared error. The inputs of the first layer after a block are compared on the remaining channels; for the last
    block the outputs of the network.

    steps: number of steps for each block and rate.
    batch: images of a step.
    rates: highest learning rates that are tried; for each block the one with the smallest error on an eighth of the
        images, which no step uses, is taken. A block whose error does not fall is not changed.
    layers: approximate number of layers of a block.
    """

    steps: int = 100
    batch: int = 32
    rates: tuple[float, ...] = (1e-3, 3e-3)
    layers: int = 4

    def __post_init__(self) -> None:
        require_positive("blockwise", steps=self.steps, batch=self.batch, layers=self.layers)

    def __call__(self, pair: Pair) -> None:
        """Adjust ``pair.pruned``."""
        images = Minibatches.of(pair, self.batch)
        with pair.looking(), _without_gradients(pair.pruned):
            full, pruned = find_layers(pair.full, pair.example), find_layers(pair.pruned, pair.example)
            common = {name: layer for name, layer in pruned.items() if name in full}
            segments = find_segments((pair.pruned, pair.full), pair.example, list(common), self.layers)
            teacher = Course(pair.full, images.shares, pair.example)
            student = Course(pair.pruned, images.shares, pair.example)
            for number, segment in enumerate(segments):
                follower = segments[number + 1].layers[0] if number + 1 < len(segments) else None
                channels = None if follower is None else pair.read_channels(full[follower])
                with torch.no_grad():
                    targets = [
                        _entering(teacher, place, follower, channels) for place in range(len(images.shares))
                    ]
                parameters = [pair.pruned.get_parameter(name) for name in _own(pair.pruned, segment, common)]
                given = partial(_entering, student, follower=follower)
                self._optimise(images, parameters, given, targets)
                teacher.advance(segment.stop)
                student.advance(segment.stop)

    def _optimise(
        self,
        images: Minibatches,
        parameters: Sequence[nn.Parameter],
        given: Callable[[int], Tensor],
        targets: Sequence[Tensor],
    ) -> None:
        """Tune the parameters so that ``given`` (minibatch) approaches its target."""
        scale = images.mean([target.double().square().flatten(1).mean(dim=1) for target in targets])

        def error(place: int) -> Tensor:
            difference = (given(place) - targets[place]).square().flatten(1).mean(dim=1)
            return difference.sum() / max(scale, 1e-12) / images.sizes[place]

        tune(parameters, error, images, self.steps, self.rates)


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Context in which ``requires_grad`` is False for all parameters; afterwards it has its earlier value."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)


def _entering(course: Course, number: int, follower: str | None, channels: Tensor | None = None) -> Tensor:
    """The input of this layer (None: the output of the network) for a minibatch; of a full network only some
    channels."""
    found: list[tuple[Tensor, int]] = []

    def entered(name: str, use: Use) -> None:
        if name == follower:
            found.append((use.given, use.given.dim() - 1 if use.linear else 1))
            raise Stopped

    with Watch(parameter_names(course.model), entered):
        out = course.output(number)
    if follower is None:
        return out
    ((given, dim),) = found
    return given if channels is None else given.index_select(dim, channels)


def _own(model: nn.Module, segment: Segment, layers: dict[str, Layer]) -> list[str]:
    """The parameters of a segment's layers and of the normalisations after them."""
    names: list[str | None] = []
    for name in segment.layers:
        layer = layers[name]
        names += [layer.weight, layer.bias]
        names += [layer.norm.scale, layer.norm.shift] if layer.norm is not None else []
    return [name for name in names if name is not None]
