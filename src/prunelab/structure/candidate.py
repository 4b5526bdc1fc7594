"""``candidate``: a pruned copy of a network in a few milliseconds, to be judged and thrown away.

``apply`` on ``copy.deepcopy`` copies every weight of the full network and then most of them again. Here each tensor
of the copy is made once, at its final size, and modules are copied without walking through their (mostly empty)
tables of hooks.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from prunelab.structure.attributes import set_integer
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.surgery import (
    attribute_changes,
    checked_cuts,
    cut_tensor,
    drop_blocks,
    named_tensors,
    rewrite_forwards,
)

_SIMPLE = (bool, int, float, str, type(None))

Memo = dict[int, Any]
"""What stands in the copy for each object of the original, by its ``id``."""


def candidate(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """A copy of ``model`` without what ``plan`` does not keep; nothing in it is shared with ``model``.

    The same network as ``apply(copy.deepcopy(model), plan)``. Raises UserError if the plan was made for another
    network.
    """
    tensors = named_tensors(model)
    cuts = checked_cuts(model, plan, tensors)
    memo: Memo = {}
    for name, tensor in tensors.items():
        if id(tensor) not in memo or name in cuts:
            memo[id(tensor)] = _pruned(tensor, cuts.get(name, []))
    pruned = _copied(model, memo)
    drop_blocks(pruned, plan)
    if plan.values:
        own = named_tensors(pruned)
        for name, values in plan.values.items():
            own[name].data = own[name].new_tensor(values)
    for module, name, value in attribute_changes(pruned, plan):
        set_integer(module, name, value)
    rewrite_forwards(pruned, plan)
    return pruned


def _pruned(tensor: Tensor, cuts: list[Cut]) -> Tensor:
    made = cut_tensor(tensor.detach(), cuts) if cuts else tensor.detach().clone()
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _copied(module: nn.Module, memo: Memo) -> nn.Module:
    """``copy.deepcopy(module, memo)``, quicker."""
    if id(module) in memo:  # a shared module
        return memo[id(module)]
    if hasattr(type(module), "__deepcopy__"):  # it knows best
        return copy.deepcopy(module, memo)
    twin: nn.Module = module.__new__(type(module))
    memo[id(module)] = twin
    for name, value in vars(module).items():
        if name == "_modules":
            value = {key: None if child is None else _copied(child, memo) for key, child in value.items()}
        elif name in ("_parameters", "_buffers"):
            value = {key: tensor if tensor is None else memo[id(tensor)] for key, tensor in value.items()}
        elif isinstance(value, dict | set) and not value:
            value = type(value)()
        elif not _immutable(value):
            value = copy.deepcopy(value, memo)
        twin.__dict__[name] = value
    return twin


def _immutable(value: Any) -> bool:
    """A number, a word, or a tuple of such: may be shared, and ``deepcopy`` would look at each entry."""
    if type(value) is tuple:
        return all(type(entry) in _SIMPLE for entry in value)
    return type(value) in _SIMPLE
