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
    """The output of the network for ``images``, where weights and images are finite.

    Raises:
        UserError: a layer produces NaN or infinity; names the first one.
    """
    try:
        outputs = context.model(images)
    except torch.linalg.LinAlgError as error:  # raised by a statistic that is computed during the pass
        place = _first_not_finite(context.model, images)
        if place is None:
            raise
        raise _error(context, place) from error
    require_finite(context, images, outputs)
    return outputs


def require_finite(context: PruningContext, images: Tensor, found: Any) -> None:
    """Check a result of a pass over ``images`` for NaN and infinity. Raises UserError as ``finite_outputs``."""
    if not all_finite(found):
        raise _error(context, _first_not_finite(context.model, images) or "the last layer")


def _error(context: PruningContext, place: str) -> UserError:
    return UserError(
        f"{context.method} cannot score {context.name}: the feature maps of {place} contain NaN or infinity, but the "
        "weights and the calibration images do not. Check for very large weights and for a precision that is too low."
    )


class _Found(Exception):
    """Ends a pass at the first layer that produces NaN or infinity."""


def _first_not_finite(model: nn.Module, images: Tensor) -> str | None:
    """The path of the first module that produces NaN or infinity, inner modules first."""

    def hook(path: str) -> Any:
        def check(module: nn.Module, given: Any, out: Any) -> None:
            if not all_finite(out):
                raise _Found(path)

        return check

    with ExitStack() as hooks:
        for path, module in model.named_modules():
            if path:
                hooks.callback(module.register_forward_hook(hook(path), prepend=True).remove)
        try:
            model(images)
        except _Found as found:
            return str(found)
    return None
