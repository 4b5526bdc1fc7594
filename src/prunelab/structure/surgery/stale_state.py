"""Optimizers that hold the state of parameters as they were before they were cut."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from prunelab.errors import UserError


@dataclass(frozen=True)
class _Cut:
    """A parameter that was cut: its network, its name there, and its shape before.

    The reference is to the network: torch cannot swap or convert a parameter in place while there is a weak reference
    to it (``torch.utils.swap_tensors``).
    """

    network: weakref.ref[nn.Module]
    name: str
    shape: torch.Size

    def is_of(self, parameter: Tensor) -> bool:
        """Whether ``parameter`` is the one that was cut, and not another at the same address."""
        network = self.network()
        if network is None:
            return False
        path, _, last = self.name.rpartition(".")
        return getattr(network.get_submodule(path), last, None) is parameter


def refuse_stale_state(model: nn.Module, before: Mapping[str, tuple[Tensor, torch.Size]]) -> None:
    """Make the next step of an optimizer raise UserError if its state has the shapes of the uncut parameters.

    A parameter is checked once, in the first step of an optimizer that holds it; no longer after the end of ``model``.

    Args:
        model: the network whose parameters were cut.
        before: name -> (parameter, its shape before it was cut).
    """
    watched = _watched()
    cuts = {id(tensor): _Cut(weakref.ref(model), name, shape) for name, (tensor, shape) in before.items()}
    watched.update(cuts)
    weakref.finalize(model, _forget, watched, cuts).atexit = False


@cache
def _watched() -> dict[int, _Cut]:
    """id -> parameter that is checked at the next step of its optimizer.

    One hook per process reads it and stays registered: torch iterates over its hooks, so that one which is removed
    during a step (by itself, or with a network that is collected there) would end that step with an error.
    """
    watched: dict[int, _Cut] = {}
    register_optimizer_step_pre_hook(lambda optimizer, *_: _check(optimizer, watched))
    return watched


def _forget(watched: dict[int, _Cut], cuts: Mapping[int, _Cut]) -> None:
    for key, cut in cuts.items():
        if watched.get(key) is cut:  # otherwise another parameter was made at the same address
            watched.pop(key, None)


def _check(optimizer: Optimizer, watched: dict[int, _Cut]) -> None:
    if not watched:
        return
    parameters: list[Tensor] = [each for group in optimizer.param_groups for each in group["params"]]
    for parameter in parameters:
        cut = watched.get(id(parameter))
        if cut is None or not cut.is_of(parameter):
            continue
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and _is_stale(value.shape, cut.shape, parameter.shape):
                raise UserError(
                    f"{type(optimizer).__name__} took steps before prunelab.apply: its state {key!r} for {cut.name} "
                    f"has shape {tuple(value.shape)}, but the parameter now has {tuple(parameter.shape)}. Pass the "
                    "optimizer to prunelab.apply(model, plan, optimizer), which cuts its state, or make a new "
                    "optimizer after prunelab.apply."
                )
        watched.pop(id(parameter), None)


def _is_stale(state: torch.Size, old: torch.Size, new: torch.Size) -> bool:
    """Whether a state has the dimensions of the old shape and not those of the new one; 1 belongs to both."""
    if len(state) != len(old):
        return False
    fits_old = all(size in (1, width) for size, width in zip(state, old, strict=True))
    return fits_old and any(size not in (1, width) for size, width in zip(state, new, strict=True))
