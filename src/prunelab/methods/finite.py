"""Checks for NaN and infinity, which would otherwise become scores that look valid."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError

RUNNING = ("running_mean", "running_var")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity; as quick as a sum, if it does not."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    accumulated = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(accumulated.isfinite()) or bool(
        tensor.isfinite().all()
    )  # large numbers may have a sum that is not


def require_finite_weights(model: nn.Module, method: str, network: str) -> None:
    """Refuse a network with NaN or infinity in a parameter or a running statistic.

    Other buffers may well hold some: masks of attention do.

    Raises:
        UserError: names the first such tensor.
    """
    running = ((name, found) for name, found in model.named_buffers() if name.endswith(RUNNING))
    for name, tensor in chain(model.named_parameters(), running):
        if not is_finite(tensor):
            raise UserError(
                f"{method} cannot judge {network}: {name} holds NaN or infinity. Check that the network was trained "
                "and loaded properly; a training that ended with such weights diverged: train with a lower rate."
            )


def all_finite(value: Any) -> bool:
    """Whether no tensor in a nested value contains NaN or infinity."""
    return all(is_finite(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
