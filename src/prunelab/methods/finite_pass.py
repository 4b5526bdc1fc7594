"""Forward passes whose output is checked for NaN and infinity; the message names the first layer that produced it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from prunelab.errors import UserError
from prunelab.methods.context import PruningContext
from prunelab.methods.finite import all_finite


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
    if not all_finite(found):
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
            if not all_finite(out):
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
