"""The pruned network, or a part of it, during one call; the tensors of the full network are not changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from prunelab.structure.plan import PruningPlan
from prunelab.structure.surgery.apply import (
    attribute_changes,
    cut_modules,
    owner,
    rewrite_methods,
    tensors_of,
)
from prunelab.structure.surgery.attributes import set_integer
from prunelab.structure.surgery.cutting import Cutter


def pruned_tensors(plan: PruningPlan, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The (meta or real) tensors of the full network after ``plan``, by name; shared ones stay shared."""
    by_tensor = plan.cuts_by_tensor()
    cutter = Cutter()
    made: dict[int, Tensor] = {}
    for name, tensor in tensors.items():
        if name in by_tensor and id(tensor) not in made:
            made[id(tensor)] = cutter.kept(tensor, by_tensor[name])
    pruned = {name: made.get(id(tensor), tensor) for name, tensor in tensors.items()}
    for name, values in plan.values.items():
        pruned[name] = torch.tensor(values, dtype=tensors[name].dtype, device=tensors[name].device)
    return pruned


@contextmanager
def as_pruned(
    modules: Mapping[str, nn.Module],
    plan: PruningPlan,
    tensors: Mapping[str, Tensor],
    pruned: Mapping[str, Tensor],
) -> Iterator[None]:
    """Context in which ``modules`` (by path: all of a network, or a part) have the methods and attributes of the pruned
    network; their tensors are not changed.

    ``tensors`` are those of the full network by name, ``pruned`` those of the pruned one.
    """
    cut = set(cut_modules(tensors, plan))
    own = [name for name in tensors_of(modules) if owner(name) in cut]
    saved: list[tuple[nn.Module, str, Any]] = []
    classes = [(modules[path], type(modules[path])) for path in plan.rewritten if path in modules]
    try:
        rewrite_methods(modules, plan.rewritten)
        with _shapes(modules, own, pruned):
            changes = attribute_changes(modules, tensors, plan)
        for module, name, value in changes:
            attribute = name.partition("[")[0]
            saved.append((module, attribute, getattr(module, attribute)))
            set_integer(module, name, value)
        yield
    finally:
        for module, name, value in reversed(saved):
            setattr(module, name, value)
        for module, kind in classes:
            module.__class__ = kind


@contextmanager
def _shapes(
    modules: Mapping[str, nn.Module], own: Iterable[str], pruned: Mapping[str, Tensor]
) -> Iterator[None]:
    """Put the ``pruned`` tensors named ``own`` into the modules while their attributes are computed. A layer with a
    parametrisation computes its weight from all its tensors, so all of them must be there."""
    owners: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path in own:
            parent, _, name = path.rpartition(".")
            module = modules[parent]
            table: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            owners.append((table, name, table[name]))
            table[name] = pruned[path]
        yield
    finally:
        for table, name, value in reversed(owners):  # a module may have two names
            table[name] = value


def call_with(
    model: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One forward call of ``model`` with these tensors (by any of their names) instead of its own.

    Every slot of every module is set once. (``functional_call`` with ``tie_weights`` does not restore a module with two
    names.)
    """
    chosen = {name: tensors[name] for name in tensors_of(dict(model.named_modules()))}
    return functional_call(model, chosen, args, kwargs, tie_weights=False)
