"""Optimizers that hold the state of parameters as they were before they were cut."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from prunelab.errors import UserError


def refuse_stale_state(model: nn.Module, before: Mapping[str, tuple[Tensor, torch.Size]]) -> None:
    """Make the next step of an optimizer raise UserError if its state has the shapes of the uncut parameters.

    The check is made once: the first optimizer with a cut parameter and without such state ends it, as does the end of
    ``model``.

    Args:
        model: the network whose parameters were cut.
        before: name -> (parameter, its shape before it was cut).
    """
    watched = {id(tensor): (name, weakref.ref(tensor), shape) for name, (tensor, shape) in before.items()}

    def before_step(optimizer: Optimizer, *_: Any) -> None:
        own: list[Tensor] = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        cut = [each for each in own if id(each) in watched and watched[id(each)][1]() is each]
        for parameter in cut:
            name, _reference, shape = watched[id(parameter)]
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor) and _is_stale(value.shape, shape, parameter.shape):
                    raise UserError(
                        f"{type(optimizer).__name__} took steps before prunelab.apply: its state {key!r} for {name} "
                        f"has shape {tuple(value.shape)}, but the parameter now has {tuple(parameter.shape)}. Pass the "
                        "optimizer to prunelab.apply(model, plan, optimizer), which cuts its state, or make a new "
                        "optimizer after prunelab.apply."
                    )
        if cut:
            handle.remove()

    handle = register_optimizer_step_pre_hook(before_step)
    weakref.finalize(model, handle.remove).atexit = False


def _is_stale(state: torch.Size, old: torch.Size, new: torch.Size) -> bool:
    """Whether a state has the dimensions of the old shape and not those of the new one; 1 belongs to both."""
    if len(state) != len(old):
        return False
    fits_old = all(size in (1, width) for size, width in zip(state, old, strict=True))
    return fits_old and any(size not in (1, width) for size, width in zip(state, new, strict=True))
