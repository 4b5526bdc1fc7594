"""A network of the benchmark: how it is built, and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


def images(size: int) -> Tensor:
    """Two random square images of ``size`` pixels."""
    return torch.randn(2, 3, size, size)


@dataclass(frozen=True)
class Entry:
    """One network with random weights.

    Attributes:
        package: the Python package that has it.
        name: unique in its package.
        build: makes the network.
        size: of its inputs, in pixels, for ``inputs``.
        other: another size that the full network accepts (None: it accepts one only).
        inputs: size -> the inputs of a forward call, as for ``prunelab.analyze``.
        training_inputs: inputs -> those of a call in training mode, where they differ (detectors need boxes).
    """

    package: str
    name: str
    build: Callable[[], nn.Module]
    size: int
    other: int | None = None
    inputs: Callable[[int], Any] = images
    training_inputs: Callable[[Any], Any] = lambda inputs: inputs
