"""Loading a state dict that was stored without PyTorch's metadata."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn


def load_state(network: nn.Module, tensors: Mapping[str, Tensor], strict: bool = True) -> None:
    """``network.load_state_dict(tensors)`` for tensors from ``network`` or an equal network in this version.

    A state dict carries the version of each module's format in an attribute (``_metadata``), which plain mappings and
    safetensors files lose. Without it modules with a versioned loader (torchvision's MNASNet, batch normalisation)
    treat the tensors as those of an old version, or raise an error. The versions of ``network`` itself are used.
    """
    state = OrderedDict(tensors)
    state._metadata = getattr(network.state_dict(), "_metadata", None)  # type: ignore[attr-defined]
    network.load_state_dict(state, strict=strict)
