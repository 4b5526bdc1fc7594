"""Refit: least squares for the layers of a candidate that lost inputs, from moments that are measured once."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from prunelab.methods.context import PruningContext
from prunelab.methods.reconstruction.least_squares import Matrix, refitted
from prunelab.methods.reconstruction.moments import measure_moments
from prunelab.methods.reconstruction.readers import Reader, find_readers, kept_indices
from prunelab.structure import PruningPlan


class Refit:
    """Changes the weights of candidates so that the outputs of their layers are close to those of the full network.

    With the second moments ``A = E[x x^T]`` of the inputs of a layer in the full network, one linear system of the size
    of the kept inputs gives its weights; it is solved once per set of kept inputs (He, Zhang, Sun: Channel Pruning,
    ICCV 2017, equation 3, with X and Y of the full network).

    Args:
        context: the full network and its calibration images.
        positions: random positions of each image at which outputs are compared.
        ridge: penalty on the change of weights, relative to the mean energy of an input.

    Raises:
        UserError: there are no calibration images.
    """

    def __init__(self, context: PruningContext, positions: int, ridge: float) -> None:
        self.readers = find_readers(context.model, context.graph)
        self.weights = {name: weights_of(context.model, reader) for name, reader in self.readers.items()}
        self._moments = measure_moments(context, self.readers.values(), positions)
        self._ridge = ridge
        self._solved: dict[tuple[str, bytes], Matrix] = {}

    def __call__(self, network: nn.Module, plan: PruningPlan) -> None:
        """Refit ``network``, a candidate of ``plan``, in place."""
        parameters = dict(network.named_parameters())
        for name, reader in self.readers.items():
            kept = kept_indices(reader, plan, dim=1)
            if kept is None or name not in parameters:  # all inputs are kept, or the layer was dropped
                continue
            outputs = kept_indices(reader, plan, dim=0)
            found = self._refitted(name, kept)[slice(None) if outputs is None else outputs][:, kept]
            with torch.no_grad():
                parameters[name].copy_(torch.from_numpy(found).reshape(parameters[name].shape))

    def _refitted(self, name: str, kept: np.ndarray) -> Matrix:
        """The weights (outputs, inputs, kernel positions) of a layer that reads only its kept inputs."""
        key = (name, kept.tobytes())
        if key not in self._solved:
            second = self._moments[name].second
            self._solved[key] = refitted(self.weights[name], second, kept, self._ridge)
        return self._solved[key]


def weights_of(model: nn.Module, reader: Reader) -> Matrix:
    """The weights of a layer, (outputs, inputs, kernel positions), float64."""
    parameter = model.get_parameter(reader.parameter).detach()
    return parameter.cpu().double().reshape(-1, reader.inputs, reader.kernel_size).numpy()
