"""Replaces layers by sequences of low rank or by binarised layers, and applies whole histories of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from prunelab.errors import UserError
from prunelab.structure.binarised import Binarisation, BinarisedConv2d, obstacle_to_binary_inputs
from prunelab.structure.low_rank import (
    Factorisation,
    Factors,
    obstacle,
    params_of,
    replace_layer,
    sequence,
    shared_layers,
)
from prunelab.structure.plan import PruningPlan
from prunelab.structure.plan_steps import Step, composed
from prunelab.structure.surgery.apply import apply, named_modules
from prunelab.structure.wrappers import uncompiled


def substitute(model: nn.Module, step: Factorisation | Binarisation) -> nn.Module:
    """Replace the layers that ``step`` names, in place: by sequences whose weights are zero, or by binarised layers.

    Raises:
        UserError: the step was made for another network, or a sequence would not be smaller than its layer. Nothing is
            changed then.
    """
    with uncompiled(model) as network:
        shared = shared_layers(network)
        modules = named_modules(network)
        if isinstance(step, Binarisation):
            _binarise(network, modules, shared, step)
        for path, factors in step.layers.items() if isinstance(step, Factorisation) else ():
            _require_replaceable(path, modules.get(path), factors, path in shared)
        for path, factors in step.layers.items() if isinstance(step, Factorisation) else ():
            replace_layer(network, path, sequence(modules[path], factors))  # type: ignore[arg-type]  # checked
        network.prunelab_plan = composed(getattr(network, "prunelab_plan", None), step)  # type: ignore[assignment]
    return model


def _binarise(
    network: nn.Module, modules: Mapping[str, nn.Module], shared: set[str], step: Binarisation
) -> None:
    for path in step.layers:
        layer = modules.get(path)
        reason = "the network lacks it" if layer is None else obstacle_to_binary_inputs(layer)
        if reason is None and path in shared:
            reason = "it shares its weight"
        if reason is not None:
            raise UserError(f"this plan was made for another network: it binarises {path!r}, but {reason}")
    for path in step.layers:
        replace_layer(network, path, BinarisedConv2d(modules[path]))  # type: ignore[arg-type]  # checked


def _require_replaceable(path: str, layer: nn.Module | None, factors: Factors, shared: bool) -> None:
    reason = "the network lacks it" if layer is None else obstacle(layer)
    if reason is None and shared:
        reason = "it shares its weight"
    if reason is not None:
        raise UserError(f"this plan was made for another network: it factorises {path!r}, but {reason}")
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    if isinstance(layer, nn.Linear) and factors.form != "channel":
        raise UserError(f"this plan was made for another network: {path!r} is linear, not {factors.form}")
    if params_of(layer, factors) >= params_of(layer, None):
        raise UserError(
            f"the plan factorises {path!r} into {factors}, which is not smaller than the layer itself"
        )


def apply_steps(model: nn.Module, steps: Sequence[Step]) -> nn.Module:
    """Prune and factorise ``model`` in place, step by step; factorised layers have weights of zero.

    Raises:
        UserError: a step was made for another network.
    """
    for step in steps:
        if isinstance(step, PruningPlan):
            apply(model, step)
        else:
            substitute(model, step)
    return model
