"""Applies a plan: cuts parameters, buffers and attributes, and replaces dropped blocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from prunelab.errors import UserError
from prunelab.structure.plan import Cut, PruningPlan
from prunelab.structure.surgery.attributes import plain_attributes, set_integer
from prunelab.structure.surgery.cutting import Cutter
from prunelab.structure.surgery.implied import require_implied
from prunelab.structure.surgery.replacing import replace_content, states_to_cut
from prunelab.structure.surgery.rewriting import Width, check_hard_coded, rewrite
from prunelab.structure.surgery.spectral import estimate_norms_again
from prunelab.structure.surgery.stale_state import refuse_stale_state
from prunelab.structure.tracing.evaluation import forget_caches, outside_inference_mode
from prunelab.structure.wrappers import uncompiled

_FUNCTIONS = {"identity": lambda x: x, "relu": torch.relu, "relu6": nn.functional.relu6}


class Dropped(nn.Module):
    """Replaces a dropped residual block: y = x, or the activation function that followed the addition.

    ``leaves`` is one of ``plan.LEAVES``.

    Takes all arguments of the block; the first tensor among them is x. ``block``: the block, whose plain attributes
    (numbers, strings, and tuples and lists of them) this module gets too, because networks read them.
    """

    leaves: str

    def __init__(self, leaves: str, block: nn.Module | None = None) -> None:
        super().__init__()
        if block is not None:
            vars(self).update(plain_attributes(block))
            self.training = block.training
        self.leaves = leaves

    def forward(self, *args: Any, **named: Any) -> Any:
        """x of any shape -> the same shape."""
        x = next(value for value in tree_leaves((args, named)) if isinstance(value, Tensor))
        y = _FUNCTIONS[self.leaves.strip("(,)")](x)
        return (y,) if self.leaves.startswith("(") else y

    def extra_repr(self) -> str:
        """The text in a printed network."""
        return self.leaves


@outside_inference_mode()
def apply(model: nn.Module, plan: PruningPlan, optimizer: Optimizer | None = None) -> nn.Module:
    """Remove from ``model``, in place, all channels and blocks that ``plan`` does not keep.

    Each kept weight is copied once. Parameters stay the same objects: ties, parametrisations, hooks and optimizers
    refer to them as before. Backward through an autograd graph that was recorded before raises UserError.

    Args:
        model: the network for which the plan was made.
        plan: the channels and blocks to keep.
        optimizer: an optimizer of ``model``; its state of each parameter (momentum, ...) is cut too. Not needed for an
            optimizer that has taken no step. The next step of an optimizer with state that was not cut raises
            UserError.

    Returns:
        ``model``. Its attribute ``prunelab_plan`` is the plan, composed with an earlier one; ``prunelab.save`` writes
        it.

    Raises:
        UserError: the plan was made for another network, or the state of ``optimizer`` cannot be cut. Nothing is
        changed
            then.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> plan = prunelab.analyze(network, torch.zeros(1, 3, 8, 8)).plan(kept={"0": [0, 2, 5]})
        >>> prunelab.apply(network, plan)[2]
        Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    with uncompiled(model) as network:
        _apply(network, plan, optimizer)
    return model


def _apply(model: nn.Module, plan: PruningPlan, optimizer: Optimizer | None) -> None:
    modules = named_modules(model)
    tensors = tensors_of(modules)
    by_tensor = checked_cuts(modules, tensors, plan)
    states = states_to_cut(optimizer, tensors, by_tensor)
    forget_caches(model)
    drop_blocks(model, plan)
    cutter = Cutter()
    done: set[int] = set()
    before = {
        name: (tensors[name], tensors[name].shape)
        for name in by_tensor
        if isinstance(tensors[name], nn.Parameter) and not tensors[name].is_meta
    }
    for name, cuts in by_tensor.items():
        tensor = tensors[name]
        if id(tensor) in done:  # a shared parameter has several names
            continue
        done.add(id(tensor))
        state = states.get(tensor, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == tensor.shape:
                state[key] = cutter.kept(value, cuts)
        replace_content(tensor, cutter.kept(tensor.data, cuts))
    if before:
        refuse_stale_state(model, before)
    for name, values in plan.values.items():
        buffer = tensors[name]
        replace_content(buffer, torch.tensor(values, dtype=buffer.dtype, device=buffer.device))
    for module, name, value in attribute_changes(modules, tensors, plan):
        set_integer(module, name, value)
    rewrite_methods(modules, plan.rewritten)
    estimate_norms_again(modules[path] for path in cut_modules(tensors, plan) if path in modules)
    previous = getattr(model, "prunelab_plan", None)
    model.prunelab_plan = plan if previous is None else previous.compose(plan)  # type: ignore[assignment]


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by every path they have."""
    found: dict[str, nn.Module] = {}

    def walk(module: nn.Module, path: str) -> None:  # Module.named_modules passes each through all levels
        found[path] = module
        for name, child in module._modules.items():
            if child is not None:
                walk(child, f"{path}.{name}" if path else name)

    walk(model, "")
    return found


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers by every name they have."""
    return tensors_of(named_modules(model))


def tensors_of(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """All parameters, then all buffers, of these modules (by path) by every name they have."""
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    for path, module in modules.items():
        prefix = f"{path}." if path else ""
        parameters.update({prefix + name: own for name, own in module._parameters.items() if own is not None})
        buffers.update({prefix + name: own for name, own in module._buffers.items() if own is not None})
    return {**parameters, **buffers}


def checked_cuts(
    modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], plan: PruningPlan
) -> dict[str, list[Cut]]:
    """The cuts of each tensor, after a check that all of them fit."""
    for module in (*plan.replaced, *plan.attributes, *plan.rewritten):
        if module not in modules:
            raise UserError(
                f"this plan was made for another network: it names the module {module!r}, which this network lacks"
            )
    for cut in plan.cuts:
        tensor = tensors.get(cut.tensor)
        if tensor is None:
            raise UserError(
                f"this plan was made for another network: it cuts {cut.tensor!r}, which this network lacks"
            )
        if cut.dim >= tensor.dim() or tensor.shape[cut.dim] != cut.size:
            raise UserError(
                f"this plan was made for another network: it expects {cut.size} entries in dimension {cut.dim} of "
                f"{cut.tensor}, whose shape is {tuple(tensor.shape)}"
            )
    by_tensor = plan.cuts_by_tensor()
    require_implied(modules, plan)
    for module, widths in plan.rewritten.items():
        check_hard_coded(modules[module], widths)
    for name, values in plan.values.items():
        _check_values(name, tensors.get(name), values, by_tensor.get(name, []))
    return by_tensor


def _check_values(name: str, buffer: Tensor | None, values: tuple[int, ...], cuts: list[Cut]) -> None:
    """Raises UserError if the new content of an index buffer has another length, or larger indices than the old one."""
    if buffer is None or buffer.is_floating_point() or buffer.is_complex() or buffer.dim() != 1:
        raise UserError(
            f"this plan was made for another network: it sets {name!r}, which is not an index buffer of this network"
        )
    length = len(cuts[0].indices) if cuts else len(buffer)
    if len(values) != length or (not buffer.is_meta and max(values) > int(buffer.max())):
        raise UserError(
            f"this plan was made for another network: its {len(values)} entries for {name!r} do not fit"
        )


def drop_blocks(model: nn.Module, plan: PruningPlan) -> None:
    """Replace each dropped block."""
    innermost_first = sorted(plan.replaced.items(), key=lambda item: -item[0].count("."))
    for path, leaves in innermost_first:
        parent, _, name = path.rpartition(".")
        drop_block(model.get_submodule(parent), name, leaves)


def drop_block(parent: nn.Module, name: str, leaves: str) -> Callable[[], None]:
    """Replace the child ``name`` of ``parent``; the returned function puts the block back."""
    children: dict[str, Any] = parent._modules
    block = children[name]
    children[name] = Dropped(leaves, block)
    return partial(children.__setitem__, name, block)


def rewrite_methods(modules: Mapping[str, nn.Module], rewritten: Mapping[str, tuple[Width, ...]]) -> None:
    """Make ``modules`` (by path) compute the hard-coded widths of their source that ``rewritten`` names."""
    for path, widths in rewritten.items():
        if path in modules:
            rewrite(modules[path], widths)


def attribute_changes(
    modules: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], plan: PruningPlan
) -> list[tuple[nn.Module, str, Any]]:
    """(module, attribute, new value) for every attribute of ``modules`` (by path) that is a width.

    ``modules`` have tensors of the new shapes; ``tensors`` (before or after) are used to find names of one tensor.
    """
    changes: list[tuple[nn.Module, str, Any]] = []
    for path in cut_modules(tensors, plan):
        if path in modules:
            groups = plan.attributes.get(path, {}).get("groups")
            changes.extend(
                (modules[path], name, value) for name, value in layer_widths(modules[path], groups)
            )
    for path, found in plan.attributes.items():
        if path in modules:
            changes.extend((modules[path], name, value) for name, value in found.items())
    return changes


def cut_modules(tensors: Mapping[str, Tensor], plan: PruningPlan) -> list[str]:
    """The paths of the modules with a tensor that ``plan`` cuts, and of the layers whose parametrisation has one."""
    cut = {id(tensors[each.tensor]) for each in plan.cuts}
    names = [name for name, tensor in tensors.items() if id(tensor) in cut]
    return list(dict.fromkeys(path for name in names for path in (name.rpartition(".")[0], owner(name))))


def owner(tensor: str) -> str:
    """The path of the module that owns a tensor: "conv" for "conv.weight" and "conv.parametrizations.weight.0.gain"."""
    path = tensor.rpartition(".")[0]
    before, inside, _ = f"{path}.".partition("parametrizations.")
    return before.rstrip(".") if inside and (not before or before.endswith(".")) else path


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    """The shape of the weight of a layer, () if it has none. Layers of ``torch.nn.utils.weight_norm``,
    ``spectral_norm`` and ``prune`` compute their weight at the beginning of a forward pass from a parameter of the same
    shape; until then ``module.weight`` is the one of the last pass."""
    for name in ("weight", "weight_v", "weight_orig"):
        if module._parameters.get(name) is not None:
            return tuple(module._parameters[name].shape)  # type: ignore[union-attr]
    weight = getattr(module, "weight", None)
    return tuple(weight.shape) if isinstance(weight, Tensor) else ()


def layer_widths(module: nn.Module, groups: int | None) -> list[tuple[str, Any]]:
    """The attributes of PyTorch's layers (and their subclasses) that follow from the shapes of their weights.

    ``groups``: of a convolution, if the plan changes their number (depthwise).
    """
    shape = _weight_shape(module)
    if type(module).__name__ == "DeformConv2d" and len(shape) == 4:
        return [("out_channels", shape[0]), ("in_channels", shape[1] * int(module.groups))]  # type: ignore[arg-type]
    if isinstance(module, nn.modules.conv._ConvNd) and len(shape) > 2:
        made, read = (1, 0) if module.transposed else (0, 1)
        groups = module.groups if groups is None else groups
        return [
            ("out_channels", shape[made] * (groups if module.transposed else 1)),
            ("in_channels", shape[read] * (1 if module.transposed else groups)),
        ]
    if isinstance(module, nn.Linear) and len(shape) == 2:
        return [("out_features", shape[0]), ("in_features", shape[1])]
    if isinstance(module, nn.MultiheadAttention):
        weight = module.in_proj_weight if module.in_proj_weight is not None else module.q_proj_weight
        return [("embed_dim", weight.shape[1])]
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and not getattr(module, "proj_size", 0):
        layer = "" if isinstance(module, nn.RNNCellBase) else "_l0"
        sizes = {"input_size": f"weight_ih{layer}", "hidden_size": f"weight_hh{layer}"}
        return [(name, getattr(module, weight).shape[1]) for name, weight in sizes.items()]
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
