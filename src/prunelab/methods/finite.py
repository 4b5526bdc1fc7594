"""Checks for NaN and infinity, which would otherwise become scores that seem valid."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError

RUNNING = ("running_mean", "running_var")


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor contains neither NaN nor infinity. Takes as long as a sum where it does not."""
    if tensor.is_meta or not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    accumulated = tensor.detach().sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
    return bool(accumulated.isfinite()) or bool(
        tensor.isfinite().all()
    )  # the sum of large finite numbers may be infinite


def require_finite_weights(model: nn.Module, method: str, network: str) -> None:
    """Check the parameters and running statistics of a network for NaN and infinity.

    Other buffers may contain infinity, such as masks of attention.

    Raises:
        UserError: names the first tensor with NaN or infinity.
    """
    running = ((name, found) for name, found in model.named_buffers() if name.endswith(RUNNING))
    for name, tensor in chain(model.named_parameters(), running):
        if not is_finite(tensor):
            raise UserError(
                f"{method} cannot score {network}: {name} contains NaN or infinity. Check that the network was trained "
                "and loaded properly. If its training diverged, train it with a lower learning rate."
            )


def reject_masks(model: nn.Module, network: str) -> None:
    """Reject weights that ``torch.nn.utils.prune`` computes from a parameter and a mask: scores read parameters.

    Raises:
        UserError: names the first such weight.
    """
    for path, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                raise UserError(
                    f"{hook._tensor_name} of {path!r} in {network} is masked by torch.nn.utils.prune. Make the zeros "
                    "permanent first: torch.nn.utils.prune.remove(module, "
                    f"{hook._tensor_name!r}) for each masked module."
                )


def all_finite(value: Any) -> bool:
    """Whether no tensor in a nested value contains NaN or infinity."""
    return all(is_finite(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
