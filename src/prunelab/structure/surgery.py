"""Applying a plan: parameters, buffers, attributes and blocks are removed for real."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from prunelab.errors import UserError
from prunelab.structure.attributes import integers, set_integer
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.rewriting import check_written, rewrite
from prunelab.structure.traceless import forget_caches

_LEAVES = {"identity": lambda x: x, "relu": torch.relu, "relu6": nn.functional.relu6}


class Dropped(nn.Module):
    """What is left of a dropped residual block: y = x, or the activation function that followed the addition.

    Takes whatever the block took; its first argument is x.
    """

    def __init__(self, leaves: str) -> None:
        super().__init__()
        self.leaves = leaves

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """x (N, C, H, W) -> the same shape."""
        return _LEAVES[self.leaves](x)

    def extra_repr(self) -> str:
        """What the printed network shows."""
        return self.leaves


def apply(model: nn.Module, plan: PruningPlan, optimizer: Optimizer | None = None) -> nn.Module:
    """Remove from ``model``, in place, what ``plan`` does not keep; returns the model.

    Each kept weight is copied once; parameters stay the same objects, so that ties and optimizers keep them.
    ``optimizer``'s state (momentum, ...) is cut with its parameters. The plan is remembered on the model
    (``model.prunelab_plan``, composed with an earlier one), so that ``prunelab.save`` can write it.

    Raises UserError, before anything is changed, if the plan was made for another network.
    """
    tensors = named_tensors(model)
    by_tensor = checked_cuts(model, plan, tensors)
    forget_caches(model)
    drop_blocks(model, plan)
    states = _states(optimizer)
    done: set[int] = set()
    for name, cuts in by_tensor.items():
        tensor = tensors[name]
        if id(tensor) in done:  # a shared parameter has several names
            continue
        done.add(id(tensor))
        state = states.get(tensor, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == tensor.shape:
                state[key] = cut_tensor(value, cuts)
        tensor.grad = None
        tensor.data = cut_tensor(tensor.data, cuts)
    for name, values in plan.values.items():
        buffer = tensors[name]
        buffer.data = torch.tensor(values, dtype=buffer.dtype, device=buffer.device)
    for module, name, value in attribute_changes(model, plan):
        set_integer(module, name, value)
    rewrite_forwards(model, plan)
    previous = getattr(model, "prunelab_plan", None)
    model.prunelab_plan = plan if previous is None else previous.compose(plan)  # type: ignore[assignment]
    return model


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by every name they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def call_with(
    model: nn.Module, tensors: Mapping[str, Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One forward call of ``model`` with these tensors in place of its own (by any of their names).

    Every slot of every module is set once. (``functional_call``'s own tying of shared weights does not restore a
    module that is reachable under two names.)
    """
    slots = [
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    ]
    chosen = {name: tensors[name] for name in slots}
    return functional_call(model, chosen, args, kwargs, tie_weights=False)


def cut_tensor(tensor: Tensor, cuts: list[Cut]) -> Tensor:
    """The kept part of ``tensor`` as a new tensor of the same memory format, each kept element copied once."""
    channels_last = tensor.dim() == 4 and not tensor.is_contiguous()
    if tensor.is_meta:
        left = {cut.dim: len(cut.indices) for cut in cuts}
        shape = [left.get(dim, size) for dim, size in enumerate(tensor.shape)]
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=layout)
    indices = {cut.dim: torch.tensor(cut.indices, device=tensor.device) for cut in cuts}
    with torch.no_grad():
        if not channels_last:
            return _selected(tensor, indices)
        places = {0: 0, 1: 3, 2: 1, 3: 2}  # in memory (O, H, W, I)
        selected = _selected(
            tensor.permute(0, 2, 3, 1), {places[dim]: index for dim, index in indices.items()}
        )
        return selected.permute(0, 3, 1, 2)


def _selected(tensor: Tensor, indices: dict[int, Tensor]) -> Tensor:
    """``indices`` per dimension of a contiguous tensor; two dimensions at once by one gather."""
    if len(indices) != 2:
        for dim, index in indices.items():
            tensor = tensor.index_select(dim, index)
        return tensor
    (low, first), (high, second) = sorted(indices.items())
    shape = tensor.shape
    rows = tensor.reshape(*shape[:low], shape[low], -1, shape[high], *shape[high + 1 :])
    between = torch.arange(rows.shape[low + 1], device=tensor.device)
    taken = rows[(slice(None),) * low + (first[:, None, None], between[:, None], second)]
    return taken.reshape(
        *shape[:low], first.numel(), *shape[low + 1 : high], second.numel(), *shape[high + 1 :]
    )


def checked_cuts(model: nn.Module, plan: PruningPlan, tensors: dict[str, Tensor]) -> dict[str, list[Cut]]:
    """The cuts of each tensor, after making sure that all of them fit."""
    modules = dict(model.named_modules())
    for module in (*plan.replaced, *plan.attributes, *plan.rewritten):
        if module not in modules:
            raise UserError(
                f"this plan was made for another network: it names {module!r}, which the network lacks"
            )
    by_tensor: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        tensor = tensors.get(cut.tensor)
        if tensor is None:
            raise UserError(
                f"this plan was made for another network: it cuts {cut.tensor!r}, which the network lacks"
            )
        if cut.dim >= tensor.dim() or tensor.shape[cut.dim] != cut.size:
            raise UserError(
                f"this plan was made for another network: it expects {cut.size} entries in dimension {cut.dim} of "
                f"{cut.tensor}, whose shape is {tuple(tensor.shape)}"
            )
        by_tensor.setdefault(cut.tensor, []).append(cut)
    for module, attributes in plan.attributes.items():
        own_integers = integers(modules[module])
        for name, value in attributes.items():
            own = own_integers.get(name)
            if own is None or not 0 < value <= own:
                raise UserError(
                    f"this plan was made for another network: it sets {name!r} of {module!r} from {own!r} to {value}"
                )
    for module, widths in plan.rewritten.items():
        check_written(modules[module], widths)
    for name, values in plan.values.items():
        _check_values(name, tensors.get(name), values, by_tensor.get(name, []))
    return by_tensor


def _check_values(name: str, buffer: Tensor | None, values: tuple[int, ...], cuts: list[Cut]) -> None:
    """New content of an index buffer fits its new length and points no further than the old content did."""
    if buffer is None or buffer.is_floating_point() or buffer.is_complex() or buffer.dim() != 1:
        raise UserError(
            f"this plan was made for another network: it sets {name!r}, which is no index buffer of it"
        )
    length = len(cuts[0].indices) if cuts else len(buffer)
    if len(values) != length or (not buffer.is_meta and max(values) > int(buffer.max())):
        raise UserError(
            f"this plan was made for another network: the {len(values)} entries that it gives to {name!r} "
            "do not fit there"
        )


def _states(optimizer: Optimizer | None) -> Mapping[Any, dict[str, Any]]:
    return optimizer.state if optimizer is not None else {}


def drop_blocks(model: nn.Module, plan: PruningPlan) -> None:
    """Put in each dropped block's place what is left of it."""
    for path, leaves in sorted(
        plan.replaced.items(), key=lambda item: -item[0].count(".")
    ):  # innermost first
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, Dropped(leaves))


def rewrite_forwards(model: nn.Module, plan: PruningPlan) -> None:
    """Let modules compute the widths that their source writes out."""
    for path, widths in plan.rewritten.items():
        rewrite(model.get_submodule(path), widths)


def attribute_changes(model: nn.Module, plan: PruningPlan) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute, new value) for every width that a module remembers.

    Call it after the tensors are cut, or with their new shapes set (see ``trial``).
    """
    modules = dict(model.named_modules())
    tensors = named_tensors(model)
    cut = {id(tensors[each.tensor]) for each in plan.cuts}
    homes = dict.fromkeys(name.rpartition(".")[0] for name, tensor in tensors.items() if id(tensor) in cut)
    changes: list[tuple[nn.Module, str, Any]] = []
    for path in homes:
        if path in modules:
            groups = plan.attributes.get(path, {}).get("groups")
            changes.extend((modules[path], name, value) for name, value in _widths(modules[path], groups))
    for path, found in plan.attributes.items():
        changes.extend((modules[path], name, value) for name, value in found.items())
    return changes


def _widths(module: nn.Module, groups: int | None) -> list[tuple[str, Any]]:
    """The attributes of PyTorch's own layers (and their subclasses) that follow from the shapes of their weights.

    ``groups``: of a convolution, where the plan changes their number (depthwise).
    """
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        weight = module._parameters.get("weight_v")
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if isinstance(module, nn.modules.conv._ConvNd) and len(shape) > 2:
        made, read = (1, 0) if module.transposed else (0, 1)
        groups = module.groups if groups is None else groups
        return [
            ("out_channels", shape[made] * (groups if module.transposed else 1)),
            ("in_channels", shape[read] * (1 if module.transposed else groups)),
        ]
    if isinstance(module, nn.Linear) and len(shape) == 2:
        return [("out_features", shape[0]), ("in_features", shape[1])]
    if isinstance(module, nn.LayerNorm | nn.RMSNorm) and shape:
        return [("normalized_shape", shape)]
    if isinstance(module, nn.GroupNorm) and shape:
        return [("num_channels", shape[0])]
    if isinstance(module, nn.modules.batchnorm._NormBase):
        mean = module.running_mean
        size = shape[0] if shape else (mean.shape[0] if mean is not None else None)
        return [("num_features", size)] if size is not None else []
    if isinstance(module, nn.PReLU) and shape:
        return [("num_parameters", shape[0])]
    if isinstance(module, nn.Embedding) and shape:
        return [("embedding_dim", shape[1])]
    return []


@contextmanager
def trial(model: nn.Module, plan: PruningPlan, tensors: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The pruned network for the time of one functional call: yields its tensors, restores the attributes after.

    ``tensors`` are the (meta or real) tensors of the full network by name; shared ones are the same object.
    """
    by_tensor: dict[str, list[Cut]] = {}
    for cut in plan.cuts:
        by_tensor.setdefault(cut.tensor, []).append(cut)
    made: dict[int, Tensor] = {}
    pruned: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in by_tensor:
            made.setdefault(id(tensor), cut_tensor(tensor, by_tensor[name]))
    for name, tensor in tensors.items():
        pruned[name] = made.get(id(tensor), tensor)
    for name, values in plan.values.items():
        pruned[name] = torch.tensor(values, dtype=tensors[name].dtype, device=tensors[name].device)
    own = {name: tensor for name, tensor in named_tensors(model).items() if pruned[name] is not tensors[name]}
    saved: list[tuple[nn.Module, str, Any]] = []
    classes = [(module, type(module)) for module in map(model.get_submodule, plan.rewritten)]
    try:
        rewrite_forwards(model, plan)
        with _shapes(model, own, pruned):
            changes = attribute_changes(model, plan)
        for module, name, value in changes:
            attribute = name.partition("[")[0]
            saved.append((module, attribute, getattr(module, attribute)))
            set_integer(module, name, value)
        yield pruned
    finally:
        for module, name, value in reversed(saved):
            setattr(module, name, value)
        for module, kind in classes:
            module.__class__ = kind


@contextmanager
def _shapes(model: nn.Module, own: dict[str, Tensor], pruned: dict[str, Tensor]) -> Iterator[None]:
    """Let the modules see the pruned tensors while their attributes are computed."""
    owners: list[tuple[dict[str, Any], str, Any]] = []
    try:
        for path in own:
            parent, _, name = path.rpartition(".")
            module = model.get_submodule(parent)
            table: dict[str, Any] = module._parameters if name in module._parameters else module._buffers
            owners.append((table, name, table[name]))
            table[name] = pruned[path]
        yield
    finally:
        for table, name, value in reversed(owners):  # a module may be reachable under two names
            table[name] = value
