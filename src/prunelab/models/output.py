"""One output of a network that returns several tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from prunelab.structure.tracing.outputs import selected


@dataclass(frozen=True)
class ChosenOutput:
    """A forward hook of a network, which then returns only one of its outputs.

    Attributes:
        output: the name of an entry or attribute, or an index, of what the network returns. A single tensor (a network
            may return more only in training mode) is returned unchanged.

    Example:
        >>> import torch
        >>> from prunelab.models.output import ChosenOutput
        >>> network = nn.GRU(4, 6)  # returns the states of all steps and the last one
        >>> handle = network.register_forward_hook(ChosenOutput(0))
        >>> network(torch.zeros(5, 1, 4)).shape
        torch.Size([5, 1, 6])
    """

    output: str | int

    def __call__(self, module: nn.Module, args: Any, returned: Any) -> Any:
        return returned if isinstance(returned, Tensor) else selected(returned, self.output)[0]
