"""New content for parameters and buffers that stay the same objects, and for the optimizer state of parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from prunelab.errors import UserError


def replace_content(tensor: Tensor, content: Tensor) -> None:
    """Set the values and shape of ``tensor``, which may be part of a living autograd graph, to those of ``content``.

    Autograd stores the shape of a parameter in the AccumulateGrad node of the parameter. The node lives as long as any
    graph that was recorded with the parameter: assigning ``tensor.data`` would leave it with the old shape, and the
    next backward pass would fail. A tensor that a graph refers to therefore gets a new ``TensorImpl``, and the graph
    keeps the old one. The Python object does not change, so that optimizers, parametrisations, ties and hooks still
    refer to it. ``torch.utils.swap_tensors`` does the same, but not for a tensor that a graph has saved for backward.
    """
    tensor.grad = None
    if tensor._use_count() == 1:  # type: ignore[attr-defined]  # no graph refers to it
        tensor.data = content
        return
    if tensor.requires_grad and tensor.is_leaf:
        torch.autograd.graph.get_gradient_edge(tensor).node.register_prehook(_no_old_graph)
    hooks, late_hooks = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    fresh = nn.Parameter(content, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else content
    torch._C._swap_tensor_impl(tensor, fresh)
    if hooks is not None:
        tensor._backward_hooks = hooks
    if late_hooks is not None:
        tensor._post_accumulate_grad_hooks = late_hooks


def _no_old_graph(gradients: Any) -> None:
    raise UserError(
        "backward runs through an autograd graph that was recorded before prunelab.apply, with weights that the plan "
        "has cut since. Call backward before prunelab.apply, or compute the loss again."
    )


def states_to_cut(
    optimizer: Optimizer | None, tensors: Mapping[str, Tensor], cut: Collection[str]
) -> Mapping[Any, dict[str, Any]]:
    """The state of each parameter of ``optimizer``; ``cut`` names the ``tensors`` that a plan cuts.

    Raises UserError if the optimizer holds a state that has not the shape of its parameter (Adafactor, LBFGS): the
    entries of such a state that belong to a channel are unknown.
    """
    if optimizer is None:
        return {}
    names = {id(tensor): name for name, tensor in reversed(list(tensors.items()))}
    affected = {id(tensors[name]) for name in cut}
    if not any(id(parameter) in affected for parameter in optimizer.state):
        return optimizer.state
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            values = value if isinstance(value, list | tuple) else (value,)
            for each in values:
                if isinstance(each, Tensor) and each.numel() > 1 and each.shape != parameter.shape:
                    raise UserError(
                        f"optimizer {type(optimizer).__name__}: its state {key!r} for "
                        f"{names.get(id(parameter), 'a parameter')} has shape {tuple(each.shape)}, not that of the "
                        f"parameter, {tuple(parameter.shape)}, so it cannot be cut. Apply the plan without the "
                        "optimizer, and make a new optimizer afterwards."
                    )
    return optimizer.state
