"""``candidate``: a pruned copy of a network in a few milliseconds, for a search that compares many of them.

``apply`` on ``copy.deepcopy`` copies every weight of the full network and then most of them again. Here each tensor
of the copy is made once, at its final size, or is a view (``share``), and modules are copied without a visit to their
(mostly empty) tables of hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.surgery.apply import (
    attribute_changes,
    checked_cuts,
    cut_modules,
    drop_blocks,
    named_modules,
    rewrite_methods,
    tensors_of,
)
from prunelab.structure.surgery.attributes import set_integer
from prunelab.structure.surgery.cutting import Cutter, is_run
from prunelab.structure.surgery.spectral import estimate_norms_again
from prunelab.structure.wrappers import uncompiled

_SIMPLE = frozenset((bool, int, float, str, type(None)))

Memo = dict[int, Any]
"""The copy of each object of the original, by the ``id`` of the original."""


def candidate(model: nn.Module, plan: PruningPlan, share: bool = False) -> nn.Module:
    """A copy of ``model``, pruned by ``plan``.

    The same network as ``apply(copy.deepcopy(model), plan)``; it shares nothing with ``model``.

    ``share``: parameters that the plan does not cut, or of which it keeps adjacent filters, are views of the memory of
    ``model``. Such a candidate is for evaluation and must not be trained: none of its parameters requires a gradient,
    so that a backward pass raises an error and an optimizer changes nothing. An in-place write into one of its
    parameters is a write into ``model``. Buffers are always copies, so that running statistics may be estimated again.

    Raises UserError if the plan was made for another network.
    """
    with uncompiled(model) as network:
        return _candidate(network, plan, share)


def _candidate(model: nn.Module, plan: PruningPlan, share: bool) -> nn.Module:
    modules = named_modules(model)
    tensors = tensors_of(modules)
    cuts = checked_cuts(modules, tensors, plan)
    memo = _pruned_tensors(tensors, cuts, plan, share)
    pruned = _copied(model, memo)
    drop_blocks(pruned, plan)
    for name, values in plan.values.items():
        buffer = memo[id(tensors[name])]
        buffer.data = buffer.new_tensor(values)
    copies = named_modules(pruned)
    for module, name, value in attribute_changes(copies, tensors, plan):
        set_integer(module, name, value)
    rewrite_methods(copies, plan.rewritten)
    estimate_norms_again(copies[path] for path in cut_modules(tensors, plan) if path in copies)
    return pruned


def _pruned_tensors(
    tensors: Mapping[str, Tensor], cuts: Mapping[str, list[Cut]], plan: PruningPlan, share: bool
) -> Memo:
    """The copy of each tensor. Tensors that are only in dropped blocks are not cut, since they are removed with the
    block."""
    memo: Memo = {}
    cutter = Cutter()
    dropped = tuple(f"{path}." for path in plan.replaced)
    for name, tensor in tensors.items():
        if name not in cuts and (id(tensor) in memo or name.startswith(dropped)):
            continue
        own = cuts.get(name, [])
        parameter = isinstance(tensor, nn.Parameter)
        made = _view(tensor.detach(), own) if share and parameter else None
        if made is None:
            made = cutter.kept(tensor.detach(), own)
        memo[id(tensor)] = nn.Parameter(made, tensor.requires_grad and not share) if parameter else made
    return memo


def _view(tensor: Tensor, cuts: list[Cut]) -> Tensor | None:
    """The kept part as a view with the memory layout of a separate tensor; None if there is no such view."""
    if not cuts:
        return tensor
    if len(cuts) > 1 or cuts[0].dim != 0 or not is_run(cuts[0]):
        return None
    return tensor.narrow(0, cuts[0].indices[0], len(cuts[0].indices))


def _copied(module: nn.Module, memo: Memo) -> nn.Module:
    """``copy.deepcopy(module, memo)``, faster."""
    if id(module) in memo:  # a shared module
        return memo[id(module)]
    if hasattr(type(module), "__deepcopy__"):  # the class defines its copies
        return copy.deepcopy(module, memo)
    twin: nn.Module = module.__new__(type(module))
    memo[id(module)] = twin
    own = dict(vars(module))
    for name, value in own.items():
        if type(value) in _SIMPLE:
            continue
        if name == "_modules":
            own[name] = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            own[name] = {key: memo.get(id(tensor), tensor) for key, tensor in value.items()}
        elif isinstance(value, dict | set) and not value:
            own[name] = type(value)()
        elif not _immutable(value):
            _detach(value, memo)
            own[name] = copy.deepcopy(value, memo)
    twin.__dict__.update(own)
    return twin


def _detach(value: Any, memo: Memo) -> None:
    """Give each result of an earlier pass in ``value`` (a loss, features) a copy without its graph: ``deepcopy`` raises
    an error for a tensor with one."""
    for tensor in tree_leaves(value):
        if isinstance(tensor, Tensor) and tensor.grad_fn is not None:
            memo.setdefault(id(tensor), tensor.detach().clone())


def _immutable(value: Any) -> bool:
    """A tuple of numbers and strings, which may be shared."""
    return type(value) is tuple and all(type(entry) in _SIMPLE for entry in value)
