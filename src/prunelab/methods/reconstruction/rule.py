"""Rule: chooses the channels of a reconstruction method and adjusts the layers that read them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prunelab.methods.about import Origin
from prunelab.methods.reconstruction.least_squares import Indices, Matrix, contributions, maps, of_channels
from prunelab.methods.reconstruction.moments import Moments
from prunelab.methods.reconstruction.readers import Reader, read_by
from prunelab.structure import ChannelGroup


@dataclass(frozen=True)
class Reading:
    """Statistics of one group, over all layers that read its channels.

    All layers have equal weight: the statistics of each are divided by E|y|^2, y the contribution of the group there.

    contributions: (channels, channels), E[z_i . z_k] of the channels' contributions to y = sum z_i.
    maps: (channels, channels), E[x_i . x_k] of the feature maps that the layers read, for each layer divided by its
        trace.
    norms: (channels,), Frobenius norm of the weights that read each channel.
    seed: of all random numbers.
    """

    contributions: Matrix
    maps: Matrix
    norms: Matrix
    seed: int

    @property
    def size(self) -> int:
        """The number of channels."""
        return len(self.norms)


@dataclass(frozen=True)
class Rule(ABC):
    """Chooses channels. A new rule is one subclass (a frozen dataclass of its settings) in one file."""

    origin: ClassVar[Origin] = Origin()
    """The paper and the code that define the rule."""

    fits_constants: ClassVar[bool] = False
    """Whether a constant is added to each output as well; the moments for ``adjusted`` are then those about the
    mean."""

    @abstractmethod
    def score(self, reading: Reading) -> Matrix:
        """The importance of each channel (channels,), higher = keep; comparable between groups."""

    def choose(self, reading: Reading, kept: Indices) -> Indices:
        """The channels to keep, by default ``kept``, those of highest score; the number must stay the same."""
        return kept

    @abstractmethod
    def adjusted(self, weights: Matrix, moments: Matrix, kept: Indices, ridge: float) -> Matrix:
        """The weights (outputs, inputs, kernel positions) of a layer that will read only its ``kept`` inputs.

        ``moments`` (features, features), features = inputs * kernel positions, are those of its inputs in the full
        network.
        """


def reading_of(
    group: ChannelGroup,
    readers: Mapping[str, Reader],
    moments: Moments,
    weights: Mapping[str, Matrix],
    seed: int,
) -> Reading:
    """The reading of a group; ``weights`` of the readers by name, (outputs, inputs, kernel positions)."""
    gram, maps_gram = np.zeros((group.size, group.size)), np.zeros((group.size, group.size))
    squares = np.zeros(group.size)
    for part in read_by(group, readers):
        name, own = part.parameter, weights[part.parameter]
        found = of_channels(contributions(moments[name].second, own), part.index)
        scale = found.sum() if found.sum() > 0 else 1.0
        seen = _matched(maps(moments[name].second, own.shape[2]), part.index)
        gram += found / scale
        maps_gram += seen / (np.trace(seen) or 1.0)
        squares += (own**2).sum(axis=(0, 2))[part.index].sum(axis=1) / scale
    return Reading(gram, maps_gram, np.sqrt(squares), seed)


def _matched(gram: Matrix, index: Indices) -> Matrix:
    """Products of maps at corresponding ones of the m places of a flattened channel."""
    return np.sum([gram[np.ix_(places, places)] for places in index.T], axis=0)
