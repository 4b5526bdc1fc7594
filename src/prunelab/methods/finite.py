"""NaN and infinity, refused in words before they become scores that look like any others."""

from __future__ import annotations

from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError

if TYPE_CHECKING:
    from prunelab.methods.context import PruningContext

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


def finite_outputs(context: PruningContext, images: Tensor) -> Any:
    """What the network gives for ``images``; its weights and the images are known to be finite.

    Raises:
        UserError: NaN or infinity arises in between; names the first layer whose output holds some.
    """
    try:
        outputs = context.model(images)
    except torch.linalg.LinAlgError as error:  # of a statistic that is computed as the images go through
        place = _first_not_finite(context.model, images)
        if place is None:
            raise
        raise _refusal(context, place) from error
    require_finite(context, images, outputs)
    return outputs


def require_finite(context: PruningContext, images: Tensor, found: Any) -> None:
    """Refuse what was found in a pass over ``images`` if it holds NaN or infinity, as ``finite_outputs`` does."""
    if not _all_finite(found):
        raise _refusal(context, _first_not_finite(context.model, images) or "the last layer")


def _refusal(context: PruningContext, place: str) -> UserError:
    return UserError(
        f"{context.method} cannot judge {context.name}: the feature maps of {place} hold NaN or infinity, though the "
        "weights and the calibration images do not. Check for very large weights, or for a precision too low for "
        "what the network computes."
    )


class _Found(Exception):
    """Ends a pass at the first layer that gives NaN or infinity."""


def _first_not_finite(model: nn.Module, images: Tensor) -> str | None:
    """The path of the first module that gives NaN or infinity, inner ones first."""

    def hook(path: str) -> Any:
        def look(module: nn.Module, given: Any, out: Any) -> None:
            if not _all_finite(out):
                raise _Found(path)

        return look

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(hook(path), prepend=True).remove)
        try:
            model(images)
        except _Found as found:
            return str(found)
    return None


def _all_finite(value: Any) -> bool:
    return all(is_finite(leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor))
