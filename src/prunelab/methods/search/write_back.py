"""Writes the weights of a trained candidate back into the full network, at the positions that the plan keeps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from prunelab.structure import PruningPlan


@torch.no_grad()
def write_back(
    model: nn.Module, plan: PruningPlan, network: nn.Module, only: tuple[str, ...] = ("",)
) -> None:
    """Copy weights and running statistics of ``network`` to the channels of ``model`` that ``plan`` keeps.

    Args:
        model: the full network, changed in place except for the removed channels.
        plan: the plan with which ``network`` was pruned from ``model``.
        network: the pruned network, trained or calibrated since.
        only: suffixes of the names of the tensors that are written; by default all.
    """
    kept: dict[str, dict[int, Tensor]] = {}
    for cut in plan.cuts:
        kept.setdefault(cut.tensor, {})[cut.dim] = torch.tensor(cut.indices, dtype=torch.long)
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not name.endswith(only):
            continue
        if name not in found or name in plan.values:  # tensors of a dropped block; positions of channels
            continue
        values = found[name].to(tensor.device, tensor.dtype)
        if name not in kept:
            tensor.copy_(values)
            continue
        sizes = enumerate(tensor.shape)
        places = [kept[name].get(dim, torch.arange(size)).to(tensor.device) for dim, size in sizes]
        tensor[torch.meshgrid(*places, indexing="ij")] = values
